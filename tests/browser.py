"""Pages measured in Chromium without a screen."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--virtual-time-budget=4000", "--window-size=1400,900"),
)
# What is wider than its frame or its own box, or text that leaves its drawing, by name of a frame.
MEASURE = """
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, cut = [];
    for (const element of page.querySelectorAll("main *")) {
      const box = element.getBoundingClientRect(), drawing = element.ownerSVGElement;
      const limit = drawing ? drawing.getBoundingClientRect() : {left: 0, right: frame.clientWidth};
      const leaves = box.width && (box.right > limit.right + 1 || box.left < limit.left - 1);
      const room = element.clientWidth || Infinity;
      const scrolls = !drawing && element.scrollWidth > room + 1;
      if (leaves || scrolls)
        cut.push(element.tagName + " " + element.textContent.trim().slice(0, 40));
    }
    found[frame.name] = {width: page.documentElement.scrollWidth, cut};
  }
  document.body.innerHTML = "<pre>" + JSON.stringify(found).replace(/</g, "&lt;") + "</pre>";
});
"""


def measure(pages: Mapping[str, str], widths: tuple[int, ...], folder: Path) -> dict[str, object]:
    """Return, by `page at width`, the page's width and the elements that are cut or scroll."""
    frames = "".join(
        f'<iframe name="{name} at {width}" width="{width}" height="800" style="border: 0"'
        f' srcdoc="{escape(page)}"></iframe>'
        for name, page in pages.items()
        for width in widths
    )
    file = folder / "frames.html"
    file.write_text(f"<!doctype html><body>{frames}<script>{MEASURE}</script></body>")
    done = subprocess.run(
        [str(BROWSER), *OPTIONS, f"--user-data-dir={folder}/profile", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    [found] = re.findall("<pre>(.*?)</pre></body>", done.stdout, re.DOTALL)[-1:]
    return dict(json.loads(unescape(found)))

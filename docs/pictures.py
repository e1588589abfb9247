"""Make the README's pictures from the report of a finished demo run: `make pictures`.

Chromium draws the page without a screen. Parts of the page that a picture does not show are hidden.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

DOCS = Path(__file__).parent
REPORT = "artifacts/demo/runs/demo/report.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
WIDTH, HEIGHT = 1100, 4000  # pixels of the window
MARGIN = 28  # pixels, above and below

HIDDEN = {  # selectors, by picture
    "report.png": "main > section:not(#ranking-quality, #recall-by-list-length), details, footer",
    "case-study.png": "main > :not(#case-study), .case ~ .case",
}


def main(report: Path) -> None:
    """Write every picture beside this file."""
    if not report.exists():
        raise SystemExit(f"{report}: no such file: run `make demo` first")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"no browser on the PATH: install one of {', '.join(BROWSERS)}")
    for name, hidden in HIDDEN.items():
        draw(browser, report.read_text("utf-8"), hidden, DOCS / name)
        print(DOCS / name)


def draw(browser: str, html: str, hidden: str, picture: Path) -> None:
    """Draw a page without the elements that the selector `hidden` matches."""
    style = f"<style>{hidden} {{ display: none; }}</style>"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(html.replace("</head>", f"{style}</head>", 1), "utf-8")
        subprocess.run(
            [
                *(browser, *OPTIONS, f"--user-data-dir={folder}/profile"),
                *(f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}", page.as_uri()),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    cut_off_background(picture)


def cut_off_background(picture: Path) -> None:
    """Cut off what is above and below all that differs from the background, except for a margin."""
    image = Image.open(picture).convert("RGB")
    background = Image.new("RGB", image.size, image.getpixel((0, image.height - 1)))
    box = ImageChops.difference(image, background).getbbox()
    _, top, _, bottom = box or (0, 0, *image.size)
    image.crop((0, top - MARGIN, image.width, bottom + MARGIN)).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else REPORT))

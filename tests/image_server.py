"""An HTTP server of images on this machine, with addresses that fail in different ways."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
from PIL import Image


def random_image(seed, kind="PNG", size=(40, 36)):
    """Return random pixels as the bytes of an image file."""
    pixels = np.random.default_rng(seed).integers(256, size=(*size[::-1], 3))
    stream = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by path; `server.requests` counts the requests of each path."""

    def do_GET(self):
        requests = self.server.requests
        requests[self.path] = requests.get(self.path, 0) + 1
        first = requests[self.path] == 1
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["image", seed]:
                self.answer(200, random_image(int(seed)))
            case ["flaky", code, seed]:
                self.answer(int(code) if first else 200, random_image(int(seed)))
            case ["status", code]:
                self.answer(int(code), b"sorry")
            case ["page"]:
                self.answer(200, b"<html>no image</html>")
            case ["moved"]:
                self.answer(302, b"", Location="/image/1")
            case ["leak", scheme]:
                self.answer(302, b"", Location=f"{scheme}:///etc/hostname")
            case ["short"]:
                self.answer(200, b"half", **{"Content-Length": "8"})
            case ["slow"]:
                self.server.ended.wait(20)
            case ["drip"]:
                self.drip()

    def answer(self, code, body, **headers):
        self.send_response(code)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self):
        """Send a byte more often than a read times out, without end."""
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.ended.wait(0.05):
                self.wfile.write(b"x")
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


@contextmanager
def image_server(monkeypatch):
    """Run the server; its `address(path)` is the URL of a path."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.ended = {}, threading.Event()
    server.address = lambda path: f"http://127.0.0.1:{server.server_address[1]}/{path}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    thread.join()

"""Download over HTTP: retries, reasons for a missing image, and the rate limit."""

import threading
import time

import pytest
from image_server import image_server, random_image

from benchmarks.faults import servers
from benchmarks.faults.tries import Answer
from etl.features import download
from etl.features.download import HostLimiters, RateLimiter, fetch
from mdsrec.images import ImageError


@pytest.fixture
def server(monkeypatch):
    with image_server(monkeypatch) as running:
        yield running


def fetch_path(server, path, retries=1, timeout=0.5):
    return fetch(server.address(path), timeout, retries, HostLimiters(0.0))


@pytest.mark.parametrize("path", ["flaky/500/1", "flaky/429/1", "moved", "image/1"])
def test_redirects_are_followed_and_temporary_failures_retried(server, monkeypatch, path):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    assert fetch_path(server, path) == random_image(1)


@pytest.mark.parametrize(
    ("path", "reason", "requests"),
    [
        ("status/404", "404", 1),
        ("status/403", "403", 1),
        ("status/503", "503", 3),
        ("slow", "timeout", 3),
        ("drip", "timeout", 3),
        ("short", "no connection", 3),
        ("leak/file", "302", 1),
        ("leak/ftp", "no connection", 3),
    ],
)
def test_only_failures_that_may_pass_are_retried(server, monkeypatch, path, reason, requests):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    with pytest.raises(ImageError, match=f"^{reason}$"):
        fetch_path(server, path, retries=2, timeout=0.2)
    assert server.requests == {f"/{path}": requests}


@pytest.mark.parametrize(
    "address", ["file:///etc/hostname", "ftp://a/b", "B1.jpg", "http://[", "http://a:x/", ""]
)
def test_only_http_addresses_are_opened(address):
    with pytest.raises(ImageError, match="not an http address"):
        fetch(address, 1.0, 0, HostLimiters(0.0))


def test_an_answer_above_the_size_limit_is_refused(server, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 100)
    with pytest.raises(ImageError, match=r"^above \d+ MiB$"):
        fetch_path(server, "image/1")


def test_an_address_with_spaces_and_letters_beyond_ascii_is_quoted_once(server):
    with pytest.raises(ImageError, match="404"):
        fetch_path(server, "status/404?a b=\u00e9%20c")
    assert list(server.requests) == ["/status/404?a%20b=%C3%A9%20c"]


def test_the_rate_limit_holds_over_all_threads():
    limiter, start = RateLimiter(0.03), time.monotonic()
    threads = [threading.Thread(target=limiter.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 5 * 0.03


def wait_for(limiters, addresses):
    """Wait for all turns at a time, and return the seconds."""
    start = time.monotonic()
    threads = [threading.Thread(target=limiters.wait, args=(each,)) for each in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - start


def test_every_host_has_a_limit_of_its_own():
    hosts = [f"http://{number}.com/1.jpg" for number in range(40)]
    assert wait_for(HostLimiters(0.1), hosts) < 40 * 0.1 / 2  # one after another they take 40
    same = ["http://a.com/1.jpg", "https://A.com/2.jpg", "http://a.com/3.jpg"]
    assert wait_for(HostLimiters(0.1), same) >= 3 * 0.1


@pytest.mark.parametrize("name", [name for name in servers.SERVERS if "drip" in name])
def test_a_server_that_drips_is_a_miss_when_its_deadline_is_over(monkeypatch, name):
    monkeypatch.setattr(servers, "TIMEOUT", 0.2)
    assert servers._download_from(servers.SERVERS[name])[0] == Answer.LINE


def test_the_body_of_a_redirect_is_bounded_as_that_of_an_image_is(monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 20)
    flood = servers.SERVERS["floods the body of a redirect"]
    assert servers._download_from(flood) == (Answer.LINE, "above 1 MiB")


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999/", "http://a..b/", "http://a\n.b/"])
def test_an_impossible_address_is_a_miss(address):
    with pytest.raises(ImageError):
        fetch(address, 1.0, 0, HostLimiters(0.0))


def test_a_resolver_that_does_not_answer_is_a_timeout(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: ended.wait(10))
    start = time.monotonic()
    with pytest.raises(ImageError, match="timeout"):
        fetch("http://slow.invalid/1.png", 0.2, 0, HostLimiters(0.0))
    ended.set()
    assert time.monotonic() - start < 5

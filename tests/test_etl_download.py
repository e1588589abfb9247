"""Fetching over HTTP: what is tried again, what is missed, and at what pace."""

import threading
import time

import pytest
from shop import opened_shop, picture

from etl.features import download
from etl.features.download import MissedError, Pace, fetch


@pytest.fixture
def shop(monkeypatch):
    with opened_shop(monkeypatch) as server:
        yield server


def got(shop, path, retries=1, timeout=0.5):
    return fetch(shop.address(path), timeout, retries, Pace(0.0))


@pytest.mark.parametrize("path", ["flaky/500/1", "flaky/429/1", "moved", "image/1"])
def test_an_image_is_fetched_through_redirects_and_passing_failures(shop, monkeypatch, path):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    assert got(shop, path) == picture(1)


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
def test_a_failure_is_tried_again_where_that_may_help(shop, monkeypatch, path, reason, requests):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    with pytest.raises(MissedError, match=f"^{reason}$"):
        got(shop, path, retries=2, timeout=0.2)
    assert shop.asked == {f"/{path}": requests}


@pytest.mark.parametrize(
    "address", ["file:///etc/hostname", "ftp://a/b", "B1.jpg", "http://[", "http://a:x/", ""]
)
def test_what_is_no_http_address_is_never_opened(address):
    with pytest.raises(MissedError, match="not an http address"):
        fetch(address, 1.0, 0, Pace(0.0))


def test_an_answer_that_is_too_large_is_left(shop, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 100)
    with pytest.raises(MissedError, match=r"^above \d+ MiB$"):
        got(shop, "image/1")


def test_an_address_with_spaces_and_letters_beyond_ascii_is_quoted_once(shop):
    with pytest.raises(MissedError, match="404"):
        got(shop, "status/404?a b=\u00e9%20c")
    assert list(shop.asked) == ["/status/404?a%20b=%C3%A9%20c"]


def test_requests_of_all_threads_keep_their_distance():
    pace, began = Pace(0.03), time.monotonic()
    threads = [threading.Thread(target=pace.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 5 * 0.03

"""Names of files in paths, which are taken as they are, and in URIs, which are quoted."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest

from mdsrec import files
from mdsrec.errors import InputError

NAMES = [
    "a b",
    "100%",
    "a%20b",
    "a#b",
    "a?b",
    "a?b=c",
    "[1]",
    "{x,y}",
    "é",
    "日本",
    "a+b&c=d;e:f@g",
    "~a",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["plain", "with blank #1 é%"])
def test_a_file_is_found_by_its_name_in_a_path_and_in_a_uri(
    tmp_path: Path, name: str, folder: str
) -> None:
    place = tmp_path / folder
    place.mkdir()
    (place / name).write_text(name)
    for uri in (str(place), f"{place}/", f"file://{quote(str(place))}"):
        assert files.read_bytes(files.join(uri, name)) == name.encode()


def test_a_name_is_quoted_and_put_before_the_query_of_a_uri() -> None:
    uri = files.join("s3://bucket/x/?region=eu-west-1&endpoint_override=http://h:9000", "a b?.json")
    assert uri == "s3://bucket/x/a%20b%3F.json?region=eu-west-1&endpoint_override=http://h:9000"
    assert files.file_system(uri)[1] == "bucket/x/a b?.json"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///x/a b", "quote ' ' as %20"),
        ("file:///x/100%", "quote '%' as %25"),
        ("file:///x/[é]", "quote '[' as %5B, 'é' as %C3%A9, ']' as %5D"),
        ("s3://bucket/a b?region=eu-west-1", "quote ' ' as %20"),
        ("gs://bucket/a b", "quote ' ' as %20"),
        ("file:///x/a#b", "ends at '#': quote it as %23"),
        ("s3://bucket/a#b", "ends at '#': quote it as %23"),
        ("file:///x/a?b", "ends at '?': quote it as %3F"),
        ("file:///x/a?b=1", "ends at '?': quote it as %3F"),
        ("s3://bucket/a?.json", "ends at '?': quote it as %3F"),
        ("s3://bucket/root?region=eu-west-1/dataset/items", "may end the URI of an input, not the"),
        ("nope://x/y", "unknown file system"),
    ],
)
def test_a_uri_that_is_not_quoted_is_refused_with_the_escape_to_use(uri: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        files.file_system(uri)
    path = re.split("[?#]", uri)[0]  # what is behind it may be a secret, and is hidden
    assert str(refused.value).startswith(path)
    assert words in str(refused.value)


def test_a_root_that_a_hash_sign_would_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quote it as %23"):
        files.check_root(f"file://{tmp_path}/a#b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["s3://", "s3:///folder", "gs://"])
def test_a_uri_without_a_bucket_is_refused_without_asking_the_network(uri):
    with pytest.raises(
        InputError, match=f"{uri}: names no bucket: write {uri[:2]}://BUCKET/FOLDER"
    ):
        files.file_system(uri)

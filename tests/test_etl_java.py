"""The search for a Java that Spark can run on."""

import subprocess

import pytest

from etl.spark import java
from mdsrec.errors import InputError


def fake_java(folder, version):
    """Write a bin/java that prints its version, and otherwise its arguments."""
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = -version ] && echo \'openjdk version "{version}"\' >&2 && exit\n'
        'for a do echo "$a"; done\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "major"), [("17.0.15", 17), ("21", 21), ("1.8.0_392", 8), ("25-ea", 25)]
)
def test_the_major_version_is_read(tmp_path, version, major):
    assert java.major_version(fake_java(tmp_path, version)) == major


def test_the_shim_drops_one_flag_and_keeps_the_other_arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", "21.0.1").parent.parent))
    shim = java.java_home() / "bin" / "java"
    command = [shim, "-Da=b c", java.FLAG, "--add-modules=x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["-Da=b c", "--add-modules=x"]
    monkeypatch.setenv("JAVA_HOME", str(shim.parent.parent))
    assert java.java_home() == shim.parent.parent  # no shim over a shim


def test_a_java_that_is_too_old_is_skipped_and_named_in_the_error(tmp_path, monkeypatch):
    old = fake_java(tmp_path / "old", "11.0.2")
    monkeypatch.setattr(java, "candidates", lambda: iter([old, tmp_path / "none"]))
    with pytest.raises(InputError, match=r"Java 17 or newer \(.*Java 11; .*does not run\)"):
        java.java_home()

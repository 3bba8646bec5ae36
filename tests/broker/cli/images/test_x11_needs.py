"""Programs that show windows by X11 only are known by their libraries."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import tarfile

import pytest

from broker.cli.images import x11_needs
from broker.cli.images.x11_needs import (
    FILE,
    needed_libraries,
    note_x11,
    sentence,
    x11_programs,
)

COMPILER = shutil.which("gcc")


def made(folder, name, needs=(), shared=False):
    """An ELF file that needs these libraries, as a linker makes it."""
    file = folder / name
    kind = ["-shared", f"-Wl,-soname,{name}"] if shared else ["-nostartfiles"]
    words = [COMPILER, "-x", "c", "-", "-o", file, "-Wl,--no-as-needed", *kind]
    source = f"void {'_start' if not shared else 'a'}(void) {{}}"
    libraries = [folder / need for need in needs]
    subprocess.run([*words[:3], "-", *words[4:], "-x", "none", *libraries], input=source.encode(), check=True)  # fmt: skip
    return file


@pytest.fixture(name="archive")
def _archive(tmp_path):
    if COMPILER is None:
        pytest.skip("gcc is not installed")
    made(tmp_path, "libX11.so.6", shared=True)
    made(tmp_path, "libwayland-client.so.0", shared=True)
    made(tmp_path, "libtool.so.1", ["libX11.so.6"], shared=True)
    made(tmp_path, "libboth.so.1", ["libX11.so.6", "libwayland-client.so.0"], shared=True)  # fmt: skip
    made(tmp_path, "old", ["libtool.so.1"])
    made(tmp_path, "new", ["libboth.so.1"])
    made(tmp_path, "other", ["libtool.so.1"])
    archive = tmp_path / "root.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("old", "new", "other"):
            tar.add(tmp_path / name, f"./usr/bin/{name}")
        for file in tmp_path.glob("lib*"):
            tar.add(file, f"./usr/lib/x/{file.name}")
        listed = b"/.\n/usr/bin\n/usr/bin/old\n/usr/bin/new\n/usr/bin/script\n"
        entry = tarfile.TarInfo("./var/lib/dpkg/info/pkg.list")
        entry.size = len(listed)
        tar.addfile(entry, io.BytesIO(listed))
        script = tarfile.TarInfo("./usr/bin/script")
        script.size = 3
        tar.addfile(script, io.BytesIO(b"#!x"))
    return archive


def test_a_program_whose_libraries_speak_only_x11(archive):
    """By another library, too; only programs of the named packages count."""
    assert x11_programs(archive, ["pkg", "not-there"]) == ["old"]


def test_programs_of_the_agent_show_no_windows(archive, monkeypatch):
    """waypipe of Debian 12 was said to need X11."""
    monkeypatch.setattr(x11_needs, "REQUIRED_PACKAGES", ("python3", "pkg"))
    assert x11_programs(archive, ["pkg"]) == []


def test_it_is_told_before_a_start(archive, tmp_path):
    note_x11(tmp_path, x11_programs(archive, ["pkg"]))
    assert (tmp_path / FILE).read_text() == "old\n"
    told = sentence("/usr/bin/old", tmp_path)
    assert "lacks X11, which these programs need: old;" in told
    assert told.endswith(f"run 'brokerctl image build {tmp_path.name} --x11'")
    assert sentence("new", tmp_path) == ""
    assert sentence("old", tmp_path / "none") == ""


@pytest.mark.parametrize(
    "data",
    [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + b"\xff" * 90],
    ids=["empty", "script", "sizes"],
)
def test_what_is_no_program_raises(data):
    with pytest.raises((ValueError, OverflowError, struct.error)):
        needed_libraries(io.BytesIO(data))

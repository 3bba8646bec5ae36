"""Which program the guest's side opens something with."""

from __future__ import annotations

import io
import os
from contextlib import nullcontext

import pytest

from shims.files import dialogs as file_dialogs
from shims.files import progress
from shims.files.openers import kind_of, opener
from shims.files.protocol import TransferError


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A guest without desktop files, and with few programs."""
    for name in ("mousepad", "foot", "looker"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "none"))
    return tmp_path


def register(bare, kind, command, name="x.desktop"):
    folder = bare / "data/applications"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"[Desktop Entry]\nExec={command}\n")
    (folder / "mimeapps.list").write_text(f"[Default Applications]\n{kind}={name};\n")


def test_our_own_opener_is_not_asked_again(bare):
    """That of boxes and containers begins with env(1)."""
    (bare / "bin/env").symlink_to("looker")
    register(bare, "x-scheme-handler/https", "env looker vitrail-open %u")
    assert "env" not in opener("https://example.org/", "url", ["looker"])


def test_what_a_desktop_file_registers_comes_first(bare):
    register(bare, "text/plain", "looker --new %f %i")
    assert opener("/a b", "text/plain", []) == ["looker", "--new", "/a b"]


def test_an_address_goes_by_its_scheme(bare):
    register(bare, "x-scheme-handler/https", "looker %u")
    assert opener("https://a.b/", "url", []) == ["looker", "https://a.b/"]
    with pytest.raises(TransferError):
        opener("mailto:a@b.c", "url", [])


def test_our_own_handler_is_not_asked_again(bare):
    register(bare, "text/plain", "vitrail-open %f")
    assert opener("/a", "text/plain", []) == ["mousepad", "/a"]


def test_then_a_usual_program_whose_parts_are_all_there(bare):
    assert opener("/a", "text/x", []) == ["mousepad", "/a"]
    os.unlink(bare / "bin/mousepad")
    with pytest.raises(TransferError):  # foot is there, less is not
        opener("/a", "text/x", [])


def test_then_the_records_own_program_unless_it_would_run_the_file(bare):
    assert opener("/a", "image/png", ["looker"]) == ["looker", "/a"]
    for command in (["foot"], ["sh", "-c", "x"], ["/usr/bin/env", "x"], ["absent"], []):
        with pytest.raises(TransferError):
            opener("/a", "image/png", command)


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a.txt", b"%PDF-1.7", "application/pdf"),
        ("a.png", b"x", "image/png"),
        ("a", b"x", "text/plain"),
        ("a", b"\0", "application/octet-stream"),
    ],
)
def test_types_come_from_the_content_first(tmp_path, name, head, kind):
    (tmp_path / name).write_bytes(head)
    assert kind_of(str(tmp_path / name)) == kind


@pytest.mark.parametrize(
    ("total", "sizes", "last"),
    [
        (
            40 << 20,
            [10 << 20, 30 << 20],
            "[##############################] 40 of 40 MiB",
        ),
        (2048, [1024, 1100], "[##############################] 2 of 2 KiB"),
    ],
)
def test_the_bar_of_a_terminal_ends_full(monkeypatch, total, sizes, last):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", screen := Terminal())
    bar = progress.Bar(total)
    bar._next = 0.0
    for size in sizes:
        bar.add(size)
    bar.end()
    assert screen.getvalue().split("\r")[-1].strip() == last


def test_a_transfer_that_is_over_at_once_has_no_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", screen := Terminal())
    bar = progress.Bar(3)
    bar.add(3)
    bar.end()
    assert screen.getvalue() == ""


@pytest.mark.parametrize(("seconds", "sent"), [(10, True), (60, False)])
def test_what_is_saved_while_the_desktop_is_busy_is_sent_later(
    tmp_path, monkeypatch, seconds, sent
):
    """It takes one content at a time; the next one was lost after a second or so."""
    now = [0.0]

    class Busy:
        """The broker refuses the token while the content before is being kept."""

        def __init__(self, _what):
            self.socket = nullcontext()

        def send(self, _data):
            if now[0] < seconds:
                raise TransferError("no file to return has this token")

        def wait(self, _what):
            """It is taken."""

    def sleep(pause):
        now[0] += pause

    monkeypatch.setattr(file_dialogs, "BrokerConnection", Busy)
    monkeypatch.setattr(file_dialogs, "send_entries", lambda *_: None)
    monkeypatch.setattr(file_dialogs.time, "sleep", sleep)
    file = tmp_path / "saved"
    file.write_text("content")
    with nullcontext() if sent else pytest.raises(TransferError):
        assert file_dialogs.send_saved(str(file), "token") == 1

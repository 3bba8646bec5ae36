"""Words of taken-over processes that reach a terminal: standard error, and raw events."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import trio

from broker.cli.audit.files import write_out
from broker.cli.doctor import verb as doctor
from broker.cli.policy.finding import fail
from broker.cli.proxy import pulse, wayland
from broker.core.errors import InternalError, PeerError
from broker.core.stderr_log import log_exception, log_stderr
from broker.viewer.devices import security_keys

DRIVES = "\x1b]0;owned\x07"
HOSTILE = f"{DRIVES}\nvitrail: all is well\x9b6n\u202e"


def test_line_of_the_log_drives_no_terminal(capsys):
    log_stderr(f"vitrail: mail: {DRIVES}")
    assert capsys.readouterr().err == "vitrail: mail: \\x1b]0;owned\\x07\n"


def test_traceback_of_a_mistake_drives_no_terminal(capsys):
    try:
        raise PeerError(HOSTILE)
    except PeerError as error:
        log_exception(error)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(said)


async def test_process_of_a_security_key_writes_no_line_of_the_log(capsys):
    """msgspec's error repeats the name of a field that it does not know."""
    opening = SimpleNamespace(lease=SimpleNamespace(sandbox="mail"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, trio.fail_after(60):
        ours.settimeout(0)
        theirs.send(json.dumps({HOSTILE: 1}).encode())
        await security_keys._Questions(opening, None, ours).serve()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vitrail: mail: ")
    assert "\x1b" not in line


def test_mistake_of_a_filter_that_runs_alone_drives_no_terminal(capsys):
    """``brokerctl proxy``: the error may repeat what some client sent."""
    mistake = InternalError(f"the filter failed: KeyError: {HOSTILE}")
    wayland._report(mistake)
    pulse._Told(json=False).failed(mistake)
    said = capsys.readouterr().err
    assert said.count("KeyError") == 2
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(said)


def test_remedy_of_doctor_drives_no_terminal(capsys):
    """A remedy is the hint of an error, which may name a file."""
    doctor._print([fail("disk", "full", f"rm {HOSTILE}")])
    said = capsys.readouterr().out
    assert "fix: rm " in said
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(said)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_raw_events_drive_no_terminal(monkeypatch):
    event = msgspec.json.encode({"reason": "\x9b6n\u202e"}).decode()
    assert "\x9b" in event, "JSON leaves it as it is"
    for out, shown in (
        (_Terminal(), '{"reason":"\\x9b6n\\u202e"}'),
        (io.StringIO(), event),
    ):
        monkeypatch.setattr(sys, "stdout", out)
        write_out(Path("-"), [event], force=False)
        assert out.getvalue() == shown

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
from broker.cli.doctor.finding import fail
from broker.core.errors import PeerError
from broker.core.stderr_log import log_exception, log_stderr
from broker.core.token_bucket import TokenBucket
from broker.viewer.security_keys import security_keys
from broker.viewer.security_keys.shared_key import SharedKey
from tests.kit.session import starter_of_orders

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
        await security_keys._Questions(
            opening, None, SharedKey(), ours, trio.sleep_forever
        ).serve()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vitrail: mail: ")
    assert "\x1b" not in line


_TAKEN_OVER = f"""
import os, socket, sys
for fd in (1, 2):
    os.write(fd, {DRIVES!r}.encode() + b"vitrail: all is well\\n")
    try:
        os.read(fd, 1)
    except OSError:
        pass
guest = socket.socket(fileno=int(sys.argv[1]))
guest.sendall(os.environ.get("A_SECRET_OF_THE_SESSION", "nothing").encode())
"""


async def test_process_of_a_security_key_that_was_taken_over(monkeypatch, capfd):
    """It parses what a guest sends, and has the system calls to read and to write.

    Where the broker has a terminal, it would read input there, too.
    """
    monkeypatch.setenv("A_SECRET_OF_THE_SESSION", "hunter2")

    prepare = f"""
import os, broker.session.security_keys.key_device as module
module.our_program = lambda _module, _profile, *args: [sys.executable, "-I", "-c", {_TAKEN_OVER!r}, *args]
module.open_key = lambda: os.open("/dev/null", 0)
"""
    monkeypatch.setattr(security_keys, "_lines", TokenBucket(1 / 60, 20))
    opening = SimpleNamespace(lease=SimpleNamespace(sandbox="mail"))
    conn, guest = socket.socketpair()
    permit = SimpleNamespace(warrant=b"", renewed=bytes)
    ignored = trio.TASK_STATUS_IGNORED
    with (
        conn,
        guest,
        trio.fail_after(60),
        starter_of_orders(prepare=prepare) as session,
    ):
        judges = None, SharedKey()
        await security_keys._carry(
            opening, conn, judges, permit, session, task_status=ignored
        )
        guest.settimeout(5)
        assert guest.recv(100) == b"nothing"
    said = capfd.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert all(line.startswith("vitrail: mail: ") for line in lines), lines
    assert "\x1b" not in said.err


def test_guest_of_a_security_key_fills_no_log(monkeypatch, capsys):
    """Each of its connections may end with such a line, and it makes new ones."""
    monkeypatch.setattr(security_keys, "_lines", TokenBucket(1 / 60, 20))
    opening = SimpleNamespace(lease=SimpleNamespace(sandbox="mail"))
    for _ in range(1000):
        security_keys._log(opening, "the guest does not read")
    assert capsys.readouterr().err.count("mail") == 20


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

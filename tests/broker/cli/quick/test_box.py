"""The short way of ``run --bwrap``: which command lines it serves, and its broker."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack

import pytest

from broker.cli.app import box_of, record_of
from broker.cli.quick import box
from broker.cli.quick.calls import ServiceCalls, open_calls
from broker.core.paths import find_paths
from broker.ipc.control.blocking_connection import Connection
from tests.kit.wayland.compositor import short_directory


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("run --bwrap -- foot", ("foot",)),
        ("run -q --bwrap -- foot -T x -- y", ("foot", "-T", "x", "--", "y")),
        ("run --bwrap --quiet -- foot --json", ("foot", "--json")),
        ("run --bwrap foot", None),
        ("run --bwrap --", None),
        ("run -q -- foot", None),
        ("run --bwrap --json -- foot", None),
        ("run --bwrap -d -- foot", None),
        ("run work -- --bwrap", None),
        ("exec --bwrap -- foot", None),
        ("--help run --bwrap -- foot", None),
        ("", None),
    ],
)
def test_it_serves_the_plain_command_line_alone(line, program):
    assert box_of(line.split()) == program


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("run work", ("work", ())),
        ("run -q work --", ("work", ())),
        (
            "run --quiet work -- foot -T x -- y",
            ("work", ("foot", "-T", "x", "--", "y")),
        ),
        ("run work foot -d", ("work", ("foot", "-d"))),
        ("run work -d foot", None),
        ("run -d work -- foot", None),
        ("run -- work", None),
        ("run", None),
        ("run -q", None),
        ("exec work -- foot", None),
    ],
)
def test_it_may_serve_a_record_without_other_options(line, found):
    assert record_of(line.split()) == found


def test_it_does_nothing_where_no_broker_answers(monkeypatch):
    with short_directory() as base:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        assert box.run(("true",)) is None
        assert box.run_record("work", ()) is None
        assert list(base.iterdir()) == []


def listening(base):
    (base / "vitrail").mkdir(mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(base / "vitrail" / "control"))
    listener.listen()
    listener.setblocking(False)
    return listener


def test_it_says_nothing_to_another_users_broker(monkeypatch):
    mine = os.getuid()
    if mine == 0:
        pytest.skip("root speaks with every user's broker")
    with short_directory() as base, listening(base) as listener:
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        with ExitStack() as stack:
            # Where it were taken for ours, the question would wait for an answer.
            monkeypatch.setattr("broker.cli.quick.calls.ANSWER_SECONDS", 0.2)
            paths = find_paths({"XDG_RUNTIME_DIR": str(base)})
            assert open_calls(stack, paths) is None
        with listener.accept()[0] as conn:
            assert conn.recv(1) == b"", "not a byte"


def test_it_does_not_connect_where_others_may_write(monkeypatch):
    if os.geteuid() == 0:
        pytest.skip("root is every user")
    with short_directory() as base, listening(base) as listener:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        monkeypatch.setattr("broker.cli.quick.calls.ANSWER_SECONDS", 0.2)
        base.chmod(0o777)
        assert box.run(("true",)) is None
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("name", ["link.toml", "link"])
def test_it_leaves_one_of_two_machines_alone(monkeypatch, name):
    with short_directory() as base, listening(base) as listener:
        for variable in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            monkeypatch.setenv(variable, str(base))
        (base / "vitrail" / name).touch()
        assert box.run(("true",)) is None
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_answer_of_an_earlier_call_is_not_taken_for_a_later_ones():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        calls = ServiceCalls(Connection(ours))
        calls.begin("LaunchBind", {"id": "1", "leader": 7})
        theirs.sendall(b'{"error": "io.vitrail.Refused"}\0{"parameters": {"n": 2}}\0')
        assert calls.call("LaunchEnd", {"id": "1"}) == {"n": 2}
        sent = [json.loads(part) for part in theirs.recv(4096).split(b"\0")[:-1]]
    assert [call["method"].rpartition(".")[2] for call in sent] == [
        "LaunchBind",
        "LaunchEnd",
    ]

"""What ``brokerctl doctor`` says of dialogs, notifications and the session's bus."""

from __future__ import annotations

import socket

import pytest
import trio

from broker.cli.doctor.finding import Context, FindingState
from broker.cli.doctor.viewer import check_questions
from broker.core.paths import find_paths
from tests.kit.wayland.compositor import short_directory


def _found(folder, bus):
    environ = {
        "XDG_RUNTIME_DIR": "/run/user/1",
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus},guid=1",
        "HOME": str(folder),
        "PATH": str(folder),
    }
    return trio.run(check_questions, Context(find_paths(environ), environ))


@pytest.fixture(name="bus")
def _bus():
    with short_directory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "bus"))
        listener.listen()
        yield folder / "bus"


def test_a_session_bus_that_is_gone_is_named(tmp_path, bus):
    gone = bus.parent / "gone"
    (found,) = (one for one in _found(tmp_path, gone) if "session bus" in one.text)
    assert found.state is FindingState.WARN
    assert f"no session bus answers at {gone}" in found.text
    assert not [one for one in _found(tmp_path, bus) if "session bus" in one.text]


def test_programs_that_notifications_need_are_named(tmp_path, bus):
    programs = [tmp_path / name for name in ("notify-send", "xdg-dbus-proxy")]
    packages = ["libnotify-bin", "xdg-dbus-proxy"]
    for number in range(3):
        warned = [
            one for one in _found(tmp_path, bus) if one.state is FindingState.WARN
        ]
        mends = [f"sudo apt install {name}" for name in packages[number:]]
        assert [one.mend for one in warned] == mends
        for program in programs[number : number + 1]:
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)

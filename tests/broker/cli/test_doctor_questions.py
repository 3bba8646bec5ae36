"""What ``brokerctl doctor`` says of dialogs, notifications and the session's bus."""

from __future__ import annotations

import gc
import shutil
import socket
from contextlib import asynccontextmanager

import pytest
from jeepney.low_level import Parser

from broker.cli.doctor.finding import Context, FindingState
from broker.cli.doctor.viewer import check_questions
from broker.core.paths import find_paths
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import ready
from tests.kit.listening import takes_connections
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.skipif(
    not shutil.which("dbus-daemon"), reason="dbus-daemon is missing"
)
CONFIG = """<busconfig><type>session</type><listen>unix:path={0}/bus</listen>
<servicedir>{0}</servicedir><policy context="default"><allow send_destination="*"/>
<allow receive_type="*"/>
<allow own="*"/></policy></busconfig>"""
SERVICE = "[D-BUS Service]\nName=org.freedesktop.{}\nExec=/bin/false\n"
SERVED = ("portal.Desktop", "impl.portal.desktop.gtk")


@asynccontextmanager
async def _bus(served=SERVED):
    """Yield the socket of a session's bus that can start these services."""
    with short_directory() as folder:
        (folder / "config").write_text(CONFIG.format(folder))
        for name in served:
            (folder / f"{name}.service").write_text(SERVICE.format(name))
        words = ("dbus-daemon", f"--config-file={folder}/config", "--nofork")
        daemon = spawn(words, env={}, stdout=DEVNULL, stderr=DEVNULL)
        try:
            await ready(daemon, lambda: takes_connections(folder / "bus"))
            yield folder / "bus"
        finally:
            await daemon.stop()


async def _found(folder, bus):
    environ = {
        "XDG_RUNTIME_DIR": "/run/user/1",
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus},guid=1",
        "HOME": str(folder),
        "PATH": str(folder),
    }
    found = await check_questions(Context(find_paths(environ), environ))
    return [one for one in found if one.state is FindingState.WARN]


async def test_a_session_bus_that_is_gone_is_named(tmp_path):
    async with _bus() as bus:
        gone = bus.parent / "gone"
        warned = await _found(tmp_path, gone)
        (found,) = (one for one in warned if "session bus" in one.text)
        assert f"no session bus answers at {gone}" in found.text
        warned = await _found(tmp_path, bus)
        assert not [one for one in warned if "session bus" in one.text]


# The library leaves the socket of a greeting that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_session_bus_that_does_not_answer_is_named(tmp_path):
    with short_directory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "bus"))
        listener.listen()
        warned = await _found(tmp_path, folder / "bus")
        assert [one for one in warned if "does not answer" in one.text]
    gc.collect()


@pytest.mark.parametrize(
    "answer",
    [b"\xff" * 200, bytes(200), b"l\x09\0\x01" + bytes(12), b"l\x02\0\x01l"],
    ids=["order", "nothing", "type", "cut"],
)
async def test_a_session_bus_that_answers_nonsense_is_named(
    tmp_path, monkeypatch, answer
):
    """The other checks of 'brokerctl doctor' were lost with this one."""

    def answered(_bus):
        # As its library reads what comes.
        parser = Parser()
        parser.add_data(answer)
        if parser.get_next_message() is None:
            raise ConnectionResetError

    monkeypatch.setattr("broker.cli.doctor.viewer._bus_names", answered)
    async with _bus() as bus:
        warned = await _found(tmp_path, bus)
    assert [one for one in warned if "the session bus takes" in one.text]


async def test_programs_that_notifications_need_are_named(tmp_path):
    programs = [tmp_path / name for name in ("notify-send", "xdg-dbus-proxy")]
    packages = ["libnotify-bin", "xdg-dbus-proxy"]
    async with _bus() as bus:
        for number in range(3):
            warned = await _found(tmp_path, bus)
            mends = [f"sudo apt install {name}" for name in packages[number:]]
            assert [one.mend for one in warned] == mends
            for program in programs[number : number + 1]:
                program.write_text("#!/bin/sh\n")
                program.chmod(0o755)


@pytest.mark.parametrize("number", range(3))
async def test_a_desktop_without_a_portal_or_its_backend_is_named(tmp_path, number):
    """A user allowed a file dialog, and a notification alone said that there is none."""
    async with _bus(SERVED[:number]) as bus:
        warned = await _found(tmp_path, bus)
    told = [one for one in warned if "file dialogs" in one.text]
    assert len(told) == (number < 2)
    for one in told:
        assert ("xdg-desktop-portal and" in one.mend) is (number == 0)
        assert "xdg-desktop-portal-gtk" in one.mend

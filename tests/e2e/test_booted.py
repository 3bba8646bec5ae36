"""Our units under a systemd that is process 1: sockets, brokers, boxes, containers.

Root's half boots this machine's own system in a container and runs this file again in a
unit of the person's systemd; so it is for root alone:

    sudo .venv/bin/python -m pytest tests/e2e/test_booted.py
"""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.cli.allow.watch import READ_SECONDS
from broker.core.paths import find_paths
from broker.helpers.process.spawn import run_tool
from tests.kit.booted import PLACE, booted
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.notified import notification_server
from tests.kit.podman import SHARED, root_directory
from tests.kit.records import shown_record
from tests.kit.wayland.compositor import (
    desktop,
    short_directory,
    wait_frames,
    wait_window,
    windows,
)
from tests.kit.world import World

USER = "vitrail"
ORANGE = (0xE6, 0x9F, 0x00)
RECORD = shown_record(
    'kind = "{kind}"',
    'command = ["foot", "-T", "{title}", "sleep", "1000"]',
    "{launch}",
    colour="orange",
)
CASES = ["activation", "box", "container", "allow"]
AS_PERSON = pytest.mark.skipif(not PLACE, reason="root's half of this file runs it")
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.root
@pytest.mark.parametrize("case", CASES)
def test_as_root(case):
    with booted(USER) as system:
        system.install()
        system.pytest(Path(__file__), case)


async def systemctl(*words):
    return (await run_tool(["systemctl", "--user", *words], env=os.environ)).decode()


async def shown(unit, *properties):
    """Properties of a unit, as systemctl shows them."""
    names = f"--property={','.join(properties)}"
    lines = (await systemctl("show", names, unit)).splitlines()
    return dict(line.split("=", 1) for line in lines)


@asynccontextmanager
async def session():
    """A person's session with a desktop, whose socket unit listens for the broker."""
    async with desktop() as comp:
        environ = {**os.environ, "WAYLAND_DISPLAY": str(comp.display)}
        with short_directory() as base:
            await systemctl("set-environment", f"WAYLAND_DISPLAY={comp.display}")
            await systemctl("start", "vitrail-local.socket")
            yield World(base, comp, environ, find_paths(environ))
            await systemctl("stop", "vitrail-local.socket", "vitrail-local.service")
            assert (await shown("vitrail-local", "Result"))["Result"] == "success"


@AS_PERSON
async def test_activation():
    async with session() as w:
        before = await shown("vitrail-local", "ActiveState", "MainPID")
        assert before == {"ActiveState": "inactive", "MainPID": "0"}
        status = await w.status()
        assert status.pid == int((await shown("vitrail-local", "MainPID"))["MainPID"])

        async def ready():
            return (await shown("vitrail-local", "ActiveState")) == {
                "ActiveState": "active"
            }

        await eventually(ready)
        # A crash: systemd starts it again, on the same socket.
        os.kill(status.pid, signal.SIGKILL)

        async def another():
            return int((await shown("vitrail-local", "MainPID"))["MainPID"]) not in {
                0,
                status.pid,
            }

        await eventually(another)
        assert (await w.status()).pid != status.pid
        # Stopped in order, the next question starts it again.
        await systemctl("stop", "vitrail-local.service")
        again = await shown("vitrail-local", "ActiveState", "Result")
        assert again == {"ActiveState": "inactive", "Result": "success"}
        assert (await w.status()).pid


async def runs(w, launch, kind):
    """A record's unit: its framed window, its group, and its end by systemctl."""
    w.write_record("notes", RECORD.format(kind=kind, title=kind, launch=launch))
    await systemctl("start", "vitrail-run@notes")
    await wait_window(w.comp, title=f"[notes] {kind}")
    await wait_frames(w.comp, {f"[notes] {kind}": {ORANGE}})
    begin = await w.wait_event("lease.begin", sandbox="notes")
    groups = Path(f"/proc/{begin['pid']}/cgroup").read_text().splitlines()
    await systemctl("stop", "vitrail-run@notes")
    await w.wait_event("lease.end", sandbox="notes")

    async def gone():
        return not windows(await w.comp.tree())

    await eventually(gone)
    state = await shown("vitrail-run@notes", "ActiveState", "Result")
    assert state == {"ActiveState": "inactive", "Result": "success"}
    return next(line[3:] for line in groups if line.startswith("0::"))


@AS_PERSON
async def test_box():
    async with session() as w:
        group = await runs(w, "", "bwrap")
        assert group.endswith("/vitrail-run@notes.service")


@AS_PERSON
async def test_container():
    """systemd-nspawn in a scope of the person's systemd."""
    async with session() as w:
        shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
        root = root_directory(w.base)
        launch = f'rootfs = "{root}"\nbind_read_only = [{shared}]'
        group = await runs(w, launch, "nspawn")
        # A separate one, which systemd has made: other containers cannot end it.
        assert ".scope" in group


def _files(pid):
    return list(Path(f"/proc/{pid}/fd").iterdir())


REFUSING = "vitrail.Display * notes @adminvm deny\n"


@AS_PERSON
async def test_allow():
    """The offer by notification, from a unit that may do little."""
    async with session() as w, notification_server(w.comp, w.environ) as s:
        w.write_record("notes", RECORD.format(kind="bwrap", title="x", launch=""))
        (rules := w.paths.config[0] / "policy.d").mkdir(parents=True, exist_ok=True)
        (rules / "30-mine.policy").write_text(REFUSING)
        address = s.env["DBUS_SESSION_BUS_ADDRESS"]
        await systemctl("set-environment", f"DBUS_SESSION_BUS_ADDRESS={address}")
        await w.status()  # the log exists
        await systemctl("start", "vitrail-allow")
        log = w.paths.audit.resolve()
        pid = (await shown("vitrail-allow", "MainPID"))["MainPID"]
        await eventually(lambda: log in map(Path.resolve, _files(pid)))
        await brokerctl("run", "notes", env=w.environ)
        # The broker shows the refusal, too, without a button.
        await s.click(await s.one_with("notes → you"), "allow")
        question = await s.one_with("Allow this?")
        await trio.sleep(READ_SECONDS)
        await s.click(question, "always")
        await s.one_with("Written")
        rule = (rules / "10-allowed.policy").read_text()
        assert "vitrail.Display * notes @adminvm allow" in rule.replace("+ ", "* ")
        await systemctl("stop", "vitrail-allow")
        assert (await shown("vitrail-allow", "Result"))["Result"] == "success"

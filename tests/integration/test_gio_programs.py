"""Programs of GIO with ``GTK_USE_PORTAL``: network, trash, notifications.

GIO then uses a portal for each of them, although the variable is set for dialogs.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import PIPE, run_tool, spawn
from shims.files.bus_calls import PORTAL_NAME
from tests.integration.test_box_session_bus import CONTAINER, boxes
from tests.kit.brokerctl import lines_of, running
from tests.kit.cables import need_cables, played
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notifying
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.wayland.compositor import short_directory

pytestmark = [PID_NAMESPACES, requires("mako", "dbus-daemon")]
RULES = """\
vitrail.Notification + work @adminvm allow
vitrail.FileDialog * work @adminvm allow
vitrail.Print * work @adminvm allow
"""
PROGRAM = (
    "/usr/bin/python3",
    "-c",
    (Path(__file__).parents[1] / "kit/gio_program.py").read_text(),
)


class Results:
    """What the program prints: a list for each part of GIO."""

    def __init__(self, lines):
        self._lines = lines

    async def next(self):
        while not (line := await anext(self._lines)).startswith("["):
            pass  # GLib warns in the same place
        return json.loads(line)


@asynccontextmanager
async def box(*words, launch="", command=PROGRAM):
    """Yield the screen and the program's results in a box of a record."""
    async with boxes(rules=RULES) as (w, screen):
        if launch:
            record = w.paths.config[0] / "sandboxes.d/work.toml"
            record.write_text(record.read_text() + launch)
        argv = ("run", "-q", "work", "--", *command, *words)
        async with (
            running(*argv, env=w.environ) as child,
            aclosing(lines_of(child)) as lines,
        ):
            yield screen, Results(lines)


@asynccontextmanager
async def container(*words):
    """The same in a container of Podman, which has a session bus."""
    async with podman_settings() as env, boxes(rules=RULES, extra=env) as (w, screen):
        root = root_directory(w.base)
        (root / "etc/passwd").write_text("root:x:0:0::/home/user:/bin/sh\n")
        shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
        w.write_record("work", CONTAINER.format(root=root, shared=shared))
        argv = ("run", "-q", "work", "--", "sh", "/run/vitrail/vitrail-session")
        async with (
            running(*argv, *PROGRAM, *words, env=w.environ) as child,
            aclosing(lines_of(child)) as lines,
        ):
            yield screen, Results(lines)


@asynccontextmanager
async def machine(*words):
    """The same in a process that has a machine's agent and its files tool."""
    async with notifying(RULES, "work") as (_, screen, guests):
        guest = guests["work"]
        async with bus_of(guest):
            env = {**guest.env, "GTK_USE_PORTAL": "1"}
            child = spawn([*PROGRAM, *words], env=env, stdout=PIPE)
            try:
                async with aclosing(lines_of(child)) as lines:
                    yield screen, Results(lines)
            finally:
                await child.kill_and_wait()
                child.popen.stdout.close()


PLACES = pytest.mark.parametrize("sandbox", [box, container, machine])


@PLACES
async def test_gio_program_has_network_and_trash_with_portal(sandbox):
    """Otherwise every GNOME program is offline in the presets browser, mail, office."""
    requests = ("connect", "proxy=http://example.org/", "trash=~=a%b.txt", "power")
    async with sandbox(*requests) as (_, results):
        assert await results.next() == ["connect", True]
        assert await results.next() == ["proxy", "direct://"]
        name, remains, content, head, path = await results.next()
        assert (name, remains, content) == ("trash", False, "content")
        assert head == "[Trash Info]"
        assert path.startswith("Path=/")
        assert path.endswith("/a%25b.txt")
        kinds = ["GPowerProfileMonitorPortal", "GMemoryMonitorPortal"]
        assert await results.next() == ["power", *kinds, False]


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ("http_proxy=http://192.0.2.1:8888", "http://192.0.2.1:8888"),
        ("A=", "direct://"),
    ],
)
async def test_gio_program_has_proxy_of_its_environment(variables, proxy):
    """GIO without libproxy has what the portal says."""
    asks = "proxy=http://example.org/"
    async with box(asks, command=("env", variables, *PROGRAM)) as (_, results):
        assert await results.next() == ["proxy", proxy]
    no_libproxy = ("env", "GIO_USE_PROXY_RESOLVER=portal", variables, *PROGRAM)
    async with box(asks, command=no_libproxy) as (_, results):
        assert await results.next() == ["proxy", "direct://"]


async def test_gio_program_trashes_file_of_another_mount_there():
    async with box("trash=/tmp=a.txt") as (_, results):
        info = ["[Trash Info]", "Path=a.txt"]
        assert await results.next() == ["trash", False, "content", *info]


@PLACES
async def test_gio_notification_shown_and_answered(sandbox):
    async with sandbox("notify") as (screen, results):
        notification = await screen.one_with("from GIO")
        assert notification[1] == "work: from GIO"
        assert notification[2] == "a text"
        assert set(notification[3].values()) == {"Show work", "Reply"}

        async def withdrawn():
            titles = [row[1] for row in await screen.shown()]
            return "work: withdrawn" not in titles

        await eventually(withdrawn)
        (button,) = (key for key, label in notification[3].items() if label == "Reply")
        await screen.click(notification, button)
        assert await results.next() == ["notify", "yes"]


@requires("passt")
@pytest.mark.parametrize(
    ("launch", "state"),
    [("", [False, "local", False]), ('network = "user"\n', [True, "full", False])],
    ids=["none", "user"],
)
async def test_gio_network_monitor_reports_network_of_box(launch, state):
    requests = (
        "network",
        "reach=127.0.0.1:80",
        "reach=192.0.2.1:80",
        "reach=no name:1",
    )
    async with box(*requests, launch=launch) as (_, results):
        kind = "GNetworkMonitorPortal"
        assert await results.next() == ["network", kind, *state]
        assert await results.next() == ["reach", True]
        assert await results.next() == ["reach", state[0]]
        assert await results.next() == ["reach", False]


def test_gio_program_is_notified_of_network_changes():
    """A default route appears and goes, in a network of the test's own."""
    need_cables("dbus-daemon", "ip")
    states = played("tests.integration.test_gio_programs", deadline=60)
    assert states == [[False, "local"], [True, "full"], [False, "local"]]


NETWORK_CHANGES = (
    (),
    (
        "link add eth0 type veth peer name eth1",
        "link set eth1 up",
        "link set eth0 up",
        "address add 192.0.2.1/24 dev eth0",
        "route add default via 192.0.2.2",
    ),
    ("link set eth0 down",),
)


async def watch_changes():
    """Have a program watch the network in which this process is alone."""
    service = f"[D-BUS Service]\nName={PORTAL_NAME}\n"
    service += f"Exec={sys.executable} -m shims.files portal\n"
    with short_directory() as folder:
        services = folder / "dbus-1/services"
        services.mkdir(parents=True)
        (services / "portal.service").write_text(service)
        env = {**os.environ, "XDG_DATA_DIRS": str(folder), "GTK_USE_PORTAL": "1"}
        env["XDG_RUNTIME_DIR"] = str(folder)
        argv = ["dbus-run-session", "--", *PROGRAM, "watch"]
        child = spawn(argv, env=env, stdout=PIPE)
        states = []
        try:
            async with aclosing(lines_of(child)) as lines:
                for changes in NETWORK_CHANGES:
                    for change in changes:
                        await run_tool(["ip", *change.split()])
                    states.append((await Results(lines).next())[1:])
            # It ends by itself, and with it the bus, which a kill would leave running.
            await child.wait()
        finally:
            await child.kill_and_wait()
    return states


if __name__ == "__main__":
    print(json.dumps(trio.run(watch_changes)))

"""What a person sees and does of a sandbox's windows, through the whole broker.

The sandboxes are containers: they start in a second, and the test is about
the worker, the supervisor and brokerctl.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import asynccontextmanager

import pytest

from broker.cli.wayland.windows import as_table
from broker.core.errors import UpstreamError
from broker.ipc.control.api import WindowCloseRequest, WindowsRequest
from broker.ipc.control.methods import WINDOW_CLOSE, WINDOWS
from broker.wire.faults import NotFoundError
from tests.kit.brokerctl import brokerctl
from tests.kit.container import DIRECT, INSIDE, RECORD, container
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.wayland.resizing import while_resizing
from tests.kit.world import world

GREY = (0x55, 0x55, 0x55)
HOSTILE = "\u202e\x1b[31m[blue] bank"
"""Text direction, a terminal's escape, and another sandbox's name."""


@asynccontextmanager
async def two_sandboxes():
    async with world(image=False) as w, container(w, "red"), container(w, "blue"):
        yield w


async def shown(w, sandbox=None):
    async with w.client() as client:
        return (await client.call(WINDOWS, WindowsRequest(sandbox=sandbox))).windows


async def close(w, sandbox, number, *, ask=False):
    async with w.client() as client:
        request = WindowCloseRequest(sandbox=sandbox, window=number, ask=ask)
        await client.call(WINDOW_CLOSE, request)


async def titles(w):
    return {node["name"] for node in windows(await w.comp.tree())}


async def test_windows_are_listed_by_sandbox_with_number_and_size():
    async with two_sandboxes() as w:
        await wait_frames(w.comp, {"[red] red": {GREY}, "[blue] blue": {GREY}})
        found = await shown(w)
        assert [(x.sandbox, x.window, x.title) for x in found] == [
            ("blue", 1, "blue"),
            ("red", 1, "red"),
        ]
        assert {x.app_id for x in found} == {"foot"}
        # Beside each other on 1280 x 800, less sway's borders and ours.
        assert all(600 < x.width < 640 and 700 < x.height < 800 for x in found)
        assert [x.sandbox for x in await shown(w, "red")] == ["red"]
        with pytest.raises(NotFoundError, match="no sandbox 'green' is running"):
            await shown(w, "green")


async def test_brokerctl_windows_and_kill_window():
    async with two_sandboxes() as w:
        answer = await brokerctl("windows", "--json", env=w.environ)
        assert answer.code == 0
        names = [x["sandbox"] for x in json.loads(answer.out)["windows"]]
        assert names == ["blue", "red"]
        answer = await brokerctl("windows", env=w.environ)
        assert "SANDBOX" in answer.out
        assert "foot" in answer.out
        missing = await brokerctl("kill-window", "red", "7", env=w.environ)
        assert missing.code == 1
        assert "has no window 7" in missing.err
        gone = await brokerctl("kill-window", "red", "1", env=w.environ)
        assert gone.code == 0, gone.err
        event = await w.wait_event("window.killed", sandbox="red", window=1)
        assert event["pid"] > 0
        assert w.events("stream.refused") == [], "its application did nothing wrong"
        told = await brokerctl("audit", "--kind", "window.killed", env=w.environ)
        assert f"    1 by process {event['pid']} of yours" in told.out
        await eventually(lambda: _only(w, "[blue] blue"))
        assert [x.sandbox for x in await shown(w)] == ["blue"]


async def _only(w, title):
    return await titles(w) == {title}


async def test_asked_to_close_the_application_closes_by_itself():
    async with two_sandboxes() as w:
        await close(w, "blue", 1, ask=True)
        await eventually(lambda: _only(w, "[red] red"))

        async def unknown():
            try:
                await close(w, "blue", 1, ask=True)
            except NotFoundError:
                return True
            except UpstreamError:
                pass  # its worker is busy with that end
            return False

        # It is off the screen before its application has taken its leave.
        await eventually(unknown)


async def test_status_of_one_sandbox_shows_its_limits():
    async with world(image=False) as w:
        extra = "[window]\nwindows = 1\n[limits]\nwayland_clients = 5\n"
        async with container(w, "red", record=extra):
            answer = await brokerctl("status", "red", "--json", env=w.environ)
            (one,) = json.loads(answer.out)["sandboxes"]
            limits = {x["what"]: x for x in one["limits"]}
            assert (limits["windows"]["now"], limits["windows"]["most"]) == (1, 1)
            assert (limits["clients"]["now"], limits["clients"]["most"]) == (1, 5)
            assert 0 < limits["shm_bytes"]["now"] <= limits["shm_bytes"]["most"]
            assert limits["windows"]["refused"] == 0
            text = (await brokerctl("status", "red", env=w.environ)).out
            assert "MAXIMUM" in text
            assert "shm bytes" in text


async def test_a_limit_that_is_hit_is_an_event_and_counted():
    record = "[window]\nsurfaces = 1\n"  # foot needs more than one
    async with world(image=False) as w, container(w, "red", record=record, wait=False):
        event = await w.wait_event("stream.refused", outcome="limited")
        assert event["sandbox"] == "red"
        assert "surfaces" in event["reason"]
        ended = await w.wait_event("stream.refused", outcome="ended")
        assert "the limit" in ended["reason"]
        assert not await titles(w)


async def test_a_hostile_title_is_harmless_wherever_it_is_shown():
    async with (
        world(image=False) as w,
        container(w, "red", title=f"$(printf '{_octal(HOSTILE)}')", wait=False),
    ):
        (window,) = await wait_window(w.comp, title="bank")
        assert window["name"].startswith("[red] ")
        assert not any(c in window["name"] for c in "\u202e\x1b\x07")
        (one,) = await shown(w)
        assert one.title == "[31m[blue] bank"
        assert "\x1b" not in _drawn(as_table([one]))


def _octal(text):
    return "".join(f"\\{byte:03o}" for byte in text.encode())


def _drawn(table):
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=200, no_color=True).print(table)
    return out.getvalue()


async def test_a_trace_of_the_jailed_filter_is_in_the_broker_s_log():
    debug = {"VITRAIL_DEBUG": "wayland"}
    async with world(image=False, extra=debug) as w, container(w, "red"):
        log = w.paths.state / "broker.log"

        def missing():
            text = log.read_text()
            # The client's, and the filter's to the compositor.
            requests = ('set_title("red")', 'set_title("[red] red")')
            return [
                line for line in (*requests, "[red] #", "client ->") if line not in text
            ]

        await eventually(lambda: not missing())


async def test_a_record_that_is_changed_while_it_runs_holds_at_once():
    async with world(image=False) as w, container(w, "red", inside=DIRECT) as red:
        await wait_frames(w.comp, {"[red] red": {GREY}})
        assert red.lease is not None
        text = RECORD.format(red.directory)
        w.write_record("red", f"{text}[window]\nwindows = 1\n")

        async def lowered():
            (one,) = (await w.status()).sandboxes
            return {x.what: x.most for x in one.limits}["windows"] == 1

        await eventually(lowered)
        assert await titles(w) == {"[red] red"}, "its windows stay"
        w.write_record("red", f'{text}[window]\ndeny = ["xdg_activation_v1"]\n')
        await eventually(lambda: _none(w))
        assert (await w.wait_event("stream.closed", sandbox="red"))["reason"]


# -- without waypipe ----------------------------------------------------------------


async def test_a_container_s_application_speaks_with_the_filter_itself():
    async with world(image=False) as w, container(w, "red", inside=DIRECT) as red:
        await wait_frames(w.comp, {"[red] red": {GREY}})
        assert [(x.sandbox, x.title) for x in await shown(w)] == [("red", "red")]
        opened = await w.wait_event("stream.opened", sandbox="red")
        assert (opened["service"], opened["mode"]) == ("vitrail.Display", "worker")
        assert w.events("decision", sandbox="red", service="vitrail.Display")
        await red.end()
        closed = await w.wait_event("stream.closed", sandbox="red")
        assert closed["bytes_from_sandbox"] > 1000
        assert closed["bytes_to_sandbox"] > 500
        await eventually(lambda: _none(w))


async def _none(w):
    return not await titles(w)


async def test_a_container_without_display_gets_no_window_by_its_own_socket():
    record = "[label]\ncolour = 'red'\n"
    async with world(image=False) as w:
        made = container(
            w, "red", inside=DIRECT, record=record, wait=False, display="none"
        )
        async with made:
            refused = await w.wait_event("decision", sandbox="red", verdict="deny")
            assert refused["service"] == "vitrail.Display"
            assert not await titles(w)


@pytest.mark.parametrize("role", ["worker", "keeper"])
async def test_a_worker_s_death_ends_the_container_s_window_and_the_next_is_served(
    role,
):
    async with world(image=False) as w, container(w, "red", inside=DIRECT):
        async with container(w, "blue", inside=DIRECT):
            os.kill(await w.pid_of(role, "red"), signal.SIGKILL)
            await eventually(lambda: _only(w, "[blue] blue"))
            closed = await w.wait_event("stream.closed", sandbox="red")
            assert closed["reason"] == "the worker died"
            await w.wait_event("lease.end", sandbox="red")  # its program has ended
        async with container(w, "red", inside=DIRECT, title="again"):
            assert "[red] again" in await titles(w)


BINDS = """
import socket, struct, sys
for _ in range({count}):
    with socket.socket(socket.AF_UNIX) as c:
        c.connect("/tmp/broker/wayland-0")
        c.sendall(struct.pack("=IHHI", 1, 1, 12, 2))
        name = b"zwlr_screencopy_manager_v1\\0\\0"
        size = 8 + 4 + 4 + len(name) + 4 + 4
        c.sendall(struct.pack("=IHHII", 2, 0, size, 77, 27) + name)
        c.sendall(struct.pack("=II", 1, 3))
        while c.recv(4096):
            pass
"""


async def test_binds_of_hidden_globals_are_events_and_a_flood_of_them_few():
    count = 40
    script = BINDS.format(count=count)
    async with world(image=False) as w:
        # Not sys.executable: a clone below /tmp is not seen in there.
        program = "sh -c '/usr/bin/python3 /tmp/broker/binds.py; sleep 99'"
        made = container(w, "red", inside=DIRECT, program=program, wait=False)
        (w.base / "sockets-red").mkdir(mode=0o700)
        (w.base / "sockets-red" / "binds.py").write_text(script)
        async with made:

            async def all_told():
                found = w.events("stream.refused", sandbox="red", outcome="ended")
                return sum(e.get("count", 1) for e in found) == count and found

            found = await eventually(all_told, deadline=60)
        assert all("no global 77" in e["reason"] for e in found)
        assert len(found) < count, "equal ones are counted"


# -- while it changes size ---------------------------------------------------------

FOOT = (
    "foot -T red -o colors.background=00aa44 -o tweak.max-shm-pool-size-mb=0 sleep 99"
)


@pytest.mark.long
@pytest.mark.parametrize(
    ("inside", "program", "content"),
    [
        pytest.param(DIRECT, FOOT, 0x00AA44, id="foot"),
        pytest.param(INSIDE, FOOT, 0x00AA44, id="foot-by-waypipe"),
        pytest.param(DIRECT, "gtk3-demo", None, id="gtk3"),
    ],
)
async def test_no_picture_of_a_resize_is_without_a_border(inside, program, content):
    record = "[label]\ncolour = 'red'\n"
    async with world(image=False) as w:
        made = container(
            w, "red", inside=inside, program=program, record=record, wait=False
        )
        async with made:
            await wait_window(w.comp, title="[red] ")
            shown = await while_resizing(w.comp, "container", 0xD55E00, content)
            assert shown >= 6

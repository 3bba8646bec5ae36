"""Each launcher by the command that a person types: window, sound, clipboard, log, end.

The whole of it for one launcher is one test, because making a box takes longer than
all of its steps.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, spawn
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import CLIPBOARD
from tests.kit.brokerctl import brokerctl
from tests.kit.clipboard.person import Person
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.own_command import (
    RED,
    Distrobox,
    Flatpak,
    Nspawn,
    Podman,
    RecordedBox,
    RecordedPodman,
    RootfulPodman,
    RootfulPodmanOfAnotherUser,
    Talk,
    Toolbox,
    UnrecordedBox,
)
from tests.kit.rootful import AS_PERSON, persons_half
from tests.kit.sound.servers import hearing, needs, sound_server, tone
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

pytestmark = PID_NAMESPACES

WAYS = {
    "bwrap": UnrecordedBox,
    "bwrap-record": RecordedBox,
    "podman": Podman,
    "podman-record": RecordedPodman,
    "nspawn": Nspawn,
    "flatpak": Flatpak,
}
# Their image is made of Debian's packages, once: by '.ci/test', from a mirror.
SHARED_BOXES = {"toolbox": Toolbox, "distrobox": Distrobox}
SECRET = "the password is hunter2"
RULE = "vitrail.ClipboardPaste * @anyvm @anyvm allow\n"
MOST_OF_A_MESSAGE = 253
"""SCM_MAX_FD: the descriptors that one message may carry (unix(7))."""
ELSEWHERE = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1] + "/wayland-0")
sock.settimeout(60)
sys.exit(0 if sock.recv(1) == b"" else 3)
"""


@pytest.mark.parametrize("name", WAYS)
async def test_a_sandbox_by_its_own_command(name):
    await whole(WAYS[name])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SHARED_BOXES)
async def test_a_shared_box_by_its_own_command(name):
    await whole(SHARED_BOXES[name])


@pytest.mark.root
@pytest.mark.machine
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_as_root(runtime):
    persons_half(Path(__file__), f"root_s_podman_with_{runtime}", runtime)


@AS_PERSON
async def test_root_s_podman_with_runc():
    await whole(RootfulPodman)


@AS_PERSON
async def test_root_s_podman_with_crun():
    await whole(RootfulPodmanOfAnotherUser)


async def whole(kind):
    """Every step, of one sandbox and one more that it exchanges a text with."""
    needs("pipewire")
    async with stage(kind) as (w, server, way, folder):
        wav = tone(folder / "tone.wav", 700, 2)
        peer, own = Talk(folder, "other"), Talk(folder, "own")
        other = UnrecordedBox(w, folder)
        async with other.running(peer.output, *peer.words(wav)):
            await wait_window(w.comp, title="other")
            peers = newest(w)["sandbox"]
            async with way.running(own.output, *own.words(wav)):
                try:
                    await wait_window(w.comp, title="own", deadline=240)
                except BaseException:
                    print(own.output.read_text(errors="replace"))
                    raise
                begin = newest(w)
                name = begin["sandbox"]
                assert name != peers
                mine = way.before_title(name) + "own"
                theirs = other.before_title(peers) + "other"
                both = {mine: {way.colour}, theirs: {RED}}
                await wait_frames(w.comp, both)
                await picture(w, kind)
                await heard(w, server, own, name)
                await chords(w, {name: own, peers: peer})
                await refused_elsewhere(w, way, begin)
                await opens_few_files(way, own)
                await own.done("hum")
                await eventually(lambda: streams(server, 1), deadline=60)
                await way.kill(begin["pid"])
                ended = await w.wait_event("lease.end", sandbox=name)
                assert ended["lease"] == begin["lease"]
                await eventually(lambda: streams(server, 0), deadline=60)
                await eventually(lambda: only_the_other(w, theirs), deadline=60)
        await audited(w, name)


@asynccontextmanager
async def stage(kind):
    """A world with sound, in which a person has set this launcher up."""
    async with (
        kind.settings() as extra,
        sound_server("pipewire") as server,
        world(start=False, image=False, extra=extra) as w,
    ):
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        w.environ["PYTHONPATH"] = os.getcwd()
        w.write_rules(RULE)
        folder = w.base / "shared"
        folder.mkdir()
        await w.start()
        way = kind(w, folder)
        async with way.prepared():
            yield w, server, way, folder


def newest(w):
    return w.events("lease.begin")[-1]


async def picture(w, kind):
    folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "launchers"
    folder.mkdir(parents=True, exist_ok=True)
    await w.comp.screenshot(folder / f"own-{kind.__name__.lower()}.png")


async def heard(w, server, own, name):
    """A tone at the sink, through the filter."""
    async with hearing(server) as found:
        await own.done("play")
    assert abs(found.hertz - 700) < 2, found.hertz
    assert abs(found.seconds - 2) < 0.5, found.seconds
    await w.wait_event("stream.closed", service="vitrail.Audio", sandbox=name)


async def chords(w, talks):
    """A text from it, and one to it, each with the two chords and not before."""
    first, second = talks
    with Person(w) as person:
        await person.awake()
        for source, target in ((first, second), (second, first)):
            text = f"{SECRET} of {source}"
            await talks[source].done("copy", text)
            await person.copy(source, talks[source].title)
            await eventually(lambda: holds(w, source), deadline=60)  # noqa: B023
            assert text not in await talks[target].ask("paste")
            await person.paste(target, talks[target].title)
            await w.wait_event("clipboard.pasted", sandbox=source, target=target)
            await talks[target].gets(text)
    assert "hunter2" not in str(w.events())


async def holds(w, source):
    async with w.client() as client:
        return (await client.call(CLIPBOARD, Nothing())).source == source


async def refused_elsewhere(w, way, begin):
    """Another container of the same user's, with the directory of the first."""
    places = (w.paths.runtime / "launch").glob("*")
    directory = next(
        place / "s"
        for place in places
        if f'"{begin["sandbox"]}"' in (place / "launch.json").read_text()
    )
    words = [
        *("bwrap", "--unshare-all", "--die-with-parent", "--dev-bind", "/", "/"),
        *("--proc", "/proc", sys.executable, "-c", ELSEWHERE, str(directory)),
    ]
    if not way.boundary:
        assert begin["peer"].startswith("label only")
        return
    child = spawn(words, stdout=DEVNULL)
    with trio.fail_after(90):
        assert await child.wait() == 0
    await w.wait_event("stream.refused", sandbox=begin["sandbox"])


async def opens_few_files(way, own):
    """The kernel counts descriptors in flight for the person (test_launchers.py)."""
    if way.boundary:
        assert int(await own.ask("files")) + MOST_OF_A_MESSAGE < 1024


async def streams(server, count):
    """Whether the sound server has so many streams."""
    lines = await server.pactl("list", "short", "sink-inputs")
    return len(lines.splitlines()) == count


async def only_the_other(w, title):
    names = [node.get("name") for node in windows(await w.comp.tree())]
    return names == [title]


async def audited(w, name):
    """The log, as a person reads it, has all of that under the sandbox's name."""
    answer = await brokerctl("audit", "--json", "--sandbox", name, env=w.environ)
    assert answer.code == 0, answer
    kinds = {(row["kind"], row.get("service", "")) for row in answer.objects}
    assert {row.get("sandbox", name) for row in answer.objects} <= {name, *others(w)}
    services = {service for kind, service in kinds if kind == "decision"}
    assert {"vitrail.Display", "vitrail.Audio"} <= services, kinds
    assert {"lease.begin", "lease.end", "clipboard.pasted"} <= {k for k, _ in kinds}


def others(w):
    return {row["sandbox"] for row in w.events("lease.begin")}

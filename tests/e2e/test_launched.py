"""What a sandbox of each launcher does with its sockets: sound, and the two chords."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.peers.credentials import can_ask_pid_namespaces
from tests.e2e.test_clipboard import SECRET, Box, held_from
from tests.kit.brokerctl import brokerctl, running
from tests.kit.clipboard.person import Person
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.sound.servers import hearing, needs, sound_server, tone
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

RECORD = """\
class = "persistent"
display = "allow"
[label]
colour = "{colour}"
[audio]
playback = "allow"
[launch]
kind = "{kind}"
{launch}
bind_read_only = [{shared}]
bind_read_write = ["{folder}"]
"""
SCRIPT = """\
cd {folder}
foot -T {name} sleep 1000 &
while :; do
  if [ -e copy ]; then wl-copy < copy; rm copy; touch copied; fi
  if [ -e paste ]; then
    rm paste; timeout 20 wl-paste --no-newline > out.new 2> problem; mv out.new out
  fi
  sleep 0.1
done
"""
KINDS = ("bwrap", "podman", "nspawn")


@pytest.fixture(autouse=True)
def _kernel():
    """Whether the kernel can tell a container's pid namespace (Linux 6.11)."""
    if not can_ask_pid_namespaces():
        pytest.skip("this kernel cannot tell a process's pid namespace")


def add(w, name, kind, colour="blue"):
    """A record of this kind; returns the directory that it shares with us."""
    folder = w.base / f"shared-{name}"
    folder.mkdir()
    launch, shared = "", ""
    if kind in {"podman", "nspawn"}:
        root = w.base / "root"
        if not root.exists():
            root_directory(w.base)
        launch = f'rootfs = "{root}"'
        shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
    text = RECORD.format(
        colour=colour,
        kind=kind,
        launch=launch,
        shared=shared,
        folder=folder,
    )
    w.write_record(name, text)
    return folder


@asynccontextmanager
async def settings_of(*kinds):
    """The environment that launchers of these kinds need."""
    async with AsyncExitStack() as stack:
        found = {}
        if "nspawn" in kinds:
            skip_without_nspawn()
        if "podman" in kinds:
            found = await stack.enter_async_context(podman_settings())
        yield found


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tone_is_heard_at_the_sink(kind):
    needs("pipewire")
    async with (
        settings_of(kind) as settings,
        sound_server("pipewire") as server,
        world(start=False, image=False, extra=settings) as w,
    ):
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        await w.start()
        folder = add(w, "player", kind)
        wav = tone(folder / "tone.wav", 700, 2)
        async with hearing(server) as heard:
            words = ("run", "-q", "player", "--", "paplay", str(wav))
            async with running(*words, env=w.environ) as child:
                with trio.fail_after(90):
                    code = await child.wait()
        assert code == 0
        assert abs(heard.hertz - 700) < 2, heard.hertz
        assert abs(heard.seconds - 2) < 0.5, heard.seconds
        closed = await w.wait_event("stream.closed", service="vitrail.Audio")
        assert closed["sandbox"] == "player"


async def test_a_window_of_nspawn_s_is_framed_and_stopping_it_ends_the_run():
    async with (
        settings_of("nspawn"),
        world(start=False, image=False) as w,
    ):
        await w.start()
        add(w, "work", "nspawn")
        words = ("run", "-q", "work", "--", "foot", "-T", "notes", "sleep", "1000")
        async with running(*words, env=w.environ) as child:
            window = await wait_window(w.comp, title="[work] notes")
            assert window
            (begin,) = [e for e in w.events() if e["kind"] == "lease.begin"]
            assert begin["sandbox"] == "work"
            await brokerctl("stop", "work", env=w.environ)
            with trio.fail_after(90):
                await child.wait()
        await w.wait_event("lease.end", sandbox="work")


async def test_the_chords_carry_a_text_from_a_box_to_a_container_and_back():
    async with (
        settings_of("podman") as settings,
        world(start=False, image=False, extra=settings) as w,
    ):
        rules = w.paths.config[0] / "policy.d"
        rules.mkdir(parents=True)
        (rules / "30-mine.policy").write_text(
            "vitrail.ClipboardPaste * work personal allow\n"
            "vitrail.ClipboardPaste * personal work allow\n"
        )
        await w.start()
        made = {}
        with Person(w) as person:
            async with AsyncExitStack() as stack:
                for name, kind in (("work", "bwrap"), ("personal", "podman")):
                    folder = add(w, name, kind)
                    (folder / "script").write_text(
                        SCRIPT.format(folder=folder, name=name)
                    )
                    words = ("run", "-q", name, "--", "sh", str(folder / "script"))
                    await stack.enter_async_context(running(*words, env=w.environ))
                    await wait_window(w.comp, title=f"[{name}] {name}")
                    made[name] = Box(folder)
                await person.awake()
                for source, target in (("work", "personal"), ("personal", "work")):
                    text = f"{SECRET} of {source}"
                    await made[source].copied(text)
                    await person.copy(source)
                    held = await held_from(w, source)
                    assert held.size == len(text)
                    await person.paste(target)
                    await w.wait_event("clipboard.pasted", target=target)
                    await made[target].gets(text)
        assert "hunter2" not in str(w.events())

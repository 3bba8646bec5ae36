"""A whole Vitrail for a test: a real compositor, a real broker process, real VMs.

``async with world() as w`` gives a separate broker, with a separate runtime,
state and configuration directories and a headless sway.  At the end nothing
of it may be left: processes, sockets and directories are looked at.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import pytest

from broker.cli.headless_sway import HeadlessCompositor
from broker.cli.images.building.build import build_image
from broker.cli.run.start import end_broker, ensure_broker
from broker.core.errors import SetupError, VitrailError
from broker.core.paths import Paths, find_paths
from broker.host.images.store import ImageSpec
from broker.host.vmm.hosttools import fetch_vhost_device_vsock
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.control.api import Nothing, RunItem, RunRequest, Status, StopRequest
from broker.ipc.control.client import Client, open_client
from broker.ipc.control.methods import RUN, STATUS, STOP
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import NeverError, eventually
from tests.kit.wayland.compositor import desktop, short_directory, wait_window

RECORD = """\
class = "{sandbox_class}"
display = "{display}"
{top}
[label]
colour = "{colour}"
[launch]
memory = "512M"
network = "{network}"
command = ["foot"]
{launch}
"""
_NOTED_EVENTS = 12
WORDS = (
    *("qemu-system", "vhost-device-vsock", "waypipe", "bwrap", "passt"),
    *(
        "broker.programs",
        "broker.helpers",
        "broker.host",
        "tests.kit.fixed",
        "tests.kit.hurried",
        "tests.kit.relay.mode",
        "tests.kit.vm.patient_copies",
    ),
)


def record(
    sandbox_class="disposable",
    *,
    display="allow",
    colour="green",
    network="none",
    top="",
    launch="",
):
    """The text of a record."""
    return RECORD.format(
        sandbox_class=sandbox_class,
        display=display,
        colour=colour,
        network=network,
        top=top,
        launch=launch,
    )


def processes(base=None):
    """Pid and command line of this user's processes that Vitrail may have started.

    With ``base``: those of the world there alone, so that another test run of
    the same user at the same time does not count.
    """
    found, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            if entry.stat().st_uid != os.getuid():
                continue
            pid = int(entry.name)
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            words = words.decode(errors="replace")
            stat = (entry / "stat").read_text(
                errors="replace"
            )  # a name may be any bytes
            state, parent = stat.rpartition(") ")[2].split()[:2]
            parents[pid] = int(parent)
            if any(word in words for word in WORDS) and state != "Z":
                found[pid] = words
    if base is None:
        return found
    knows = cache(partial(_knows, str(base)))
    return {p: w for p, w in found.items() if _below(p, knows, parents)}


def _knows(base, pid):
    """Whether a process has a directory in its words, environment or files."""
    entry = Path(f"/proc/{pid}")
    for name in ("cmdline", "environ"):
        with suppress(OSError):
            if base.encode() in (entry / name).read_bytes():
                return True
    with suppress(OSError):
        for fd in (entry / "fd").iterdir():
            with suppress(OSError):
                if base in os.readlink(fd):
                    return True
    return False


def _below(pid, knows, parents):
    """Whether it or a process above it of this user knows the directory."""
    while pid in parents and not knows(pid):
        pid = parents[pid]
    return pid in parents


def descriptors(pid):
    """How many descriptors of each kind a process has open."""
    found = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found[os.readlink(entry).partition(":")[0]] += 1
    return found


async def the_image(spec=None):
    """A guest image, the default one, and the vsock backend, made once and kept."""
    paths = find_paths()

    def tell(what):
        print(f"image: {what}", flush=True)

    try:
        await fetch_vhost_device_vsock(paths, tell)
        return await build_image(paths, spec or ImageSpec(), tell)
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no guest image: {error.diagnostics()}")


@dataclass
class World:
    """A running broker and its compositor."""

    base: Path
    comp: HeadlessCompositor
    environ: dict[str, str]
    paths: Paths
    program: str = "broker.programs.local"
    started: list[str] = field(default_factory=list)

    def write_record(self, name, text):
        """Put a record where the broker reads it."""
        folder = self.paths.config[0] / "sandboxes.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.toml").write_text(text)

    def write_rules(self, text, name="30-mine"):
        """Put rules where the broker reads them; returns their file."""
        file = self.paths.config[0] / "policy.d" / f"{name}.policy"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    @asynccontextmanager
    async def client(self) -> Client:
        async with open_client(self.paths.control) as connection:
            yield connection

    async def start(self):
        """Start the broker (again)."""
        assert await ensure_broker(
            self.paths, environ=self.environ, module=self.program
        )

    async def status(self) -> Status:
        async with self.client() as client:
            return await client.call(STATUS, Nothing())

    async def broker_pid(self):
        return (await self.status()).pid

    async def pid_of(self, role, sandbox=None):
        """The pid of one of the broker's processes, by its role in the status."""
        for process in (await self.status()).processes:
            if process.role == role and sandbox in {None, process.sandbox}:
                return process.pid
        raise AssertionError(f"no {role} of {sandbox}")

    async def run(self, name, *argv, window=True, wait=False):
        """Run a program as brokerctl would; returns the last item and all items."""
        items: list[RunItem] = []

        async def take(item):
            items.append(item)

        async with self.client() as client:
            last = await client.call(
                RUN,
                RunRequest(
                    record=name, argv=list(argv) or None, window=window, wait=wait
                ),
                take,
            )
        return last, items

    async def output(self, name, *argv):
        """Run a program without a window to its end; returns code and output."""
        last, items = await self.run(name, *argv, window=False, wait=True)
        return last.exited.code, b"".join(i.output or b"" for i in items)

    async def said(self, *words, code=0):
        """What brokerctl says: its output, or its error if ``code`` is not 0."""
        answer = await brokerctl(*words, env=self.environ, deadline=300)
        assert answer.code == code, answer
        return answer.out if code == 0 else answer.err

    async def window(self, name, title, *foot_options):
        """A foot with that title; returns the sandbox's name."""
        last, _ = await self.run(
            name, "foot", "-T", title, *foot_options, "sleep", "1000"
        )
        await wait_window(self.comp, title=title)
        return last.started.sandbox

    async def stop(self, name=None, grace=None):
        async with self.client() as client:
            return await client.call(STOP, StopRequest(sandbox=name, grace=grace))

    def events(self, kind="", **wanted) -> list[dict]:
        """Recorded events of this kind with these fields, oldest first."""
        with open_log(self.paths.audit) as log:
            filters = Filters(kinds=(kind,) if kind else ())
            found = [row.fields() for row in log.find(filters)]
        return [e for e in found if all(e.get(k) == v for k, v in wanted.items())]

    async def only_event(self, kind, **wanted) -> dict:
        """Wait for the event of this kind with these fields, of which there is one."""
        await self.wait_event(kind, **wanted)
        (event,) = self.events(kind, **wanted)
        return event

    async def wait_event(self, kind, deadline=60, **wanted):
        """Wait for an event of this kind with these fields; returns the newest.

        If it does not come the error has a note of what came last.
        """

        async def look():
            return self.events(kind, **wanted)

        try:
            return (await eventually(look, deadline=deadline))[-1]
        except NeverError as error:
            came = [str(event) for event in self.events()[-_NOTED_EVENTS:]]
            error.add_note("\n".join((f"no {kind} {wanted}; the last events:", *came)))
            raise

    def processes(self):
        """Pid and command line of this world's processes."""
        return processes(self.base)

    async def shutdown(self):
        """End the broker as 'brokerctl stop --broker' does."""
        async with self.client() as client:
            await end_broker(client)


@asynccontextmanager
async def world(
    records=None,
    *,
    start=True,
    image=True,
    program="broker.programs.local",
    extra=None,
    screen=desktop,
    rules=None,
):
    """A separate broker; ``records`` maps names to texts, ``rules`` are the user's.

    ``extra`` is added to its environment.
    ``program`` is the module that is the broker, one of ours or of the kit's.
    ``screen`` gives its compositor.
    """
    if image:
        await the_image()
    async with screen() as comp:
        with short_directory() as base:
            environ = {
                **os.environ,
                "XDG_RUNTIME_DIR": str(base / "run"),
                "XDG_STATE_HOME": str(base / "state"),
                "XDG_CONFIG_HOME": str(base / "config"),
                "XDG_CONFIG_DIRS": str(base / "none"),
                "XDG_DATA_HOME": str(base / "data"),
                "XDG_CACHE_HOME": str(find_paths().cache.parent),
                "WAYLAND_DISPLAY": str(comp.display),
                **(extra or {}),
            }
            (base / "run").mkdir(mode=0o700)
            made = World(base, comp, environ, find_paths(environ), program)
            for name, text in (records or {"app": record()}).items():
                made.write_record(name, text)
            if rules is not None:
                made.write_rules(rules)
            if start:
                await made.start()
            try:
                yield made
                with suppress(VitrailError):
                    await made.shutdown()
                await _all_gone(base)
                left = list((made.paths.runtime / "sandboxes").glob("*"))
                assert not left, [list(one.rglob("*")) for one in left]
            finally:
                for pid in processes(base):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                log = made.paths.state / "broker.log"
                if log.exists():
                    print("broker.log:\n" + log.read_text())


async def _all_gone(base):
    async def gone():
        return not processes(base)

    try:
        await eventually(gone, deadline=60)
    except NeverError:
        raise AssertionError(f"left behind: {processes(base)}") from None

"""``brokerctl run`` of a container or tree: held until the broker has leased it."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from broker.cli import render
from broker.cli.homes.kept_home import KeptHome, kept_home
from broker.cli.launchers.binds import refuse_binds
from broker.cli.launchers.interface import RunRecord
from broker.cli.launchers.portal_programs import portal_variables
from broker.cli.link.pairing.role import role_here
from broker.cli.policy.records import read_records
from broker.cli.run.connect import open_client
from broker.cli.run.progress import Steps
from broker.cli.run.start import ensure_broker, refuse_root
from broker.cli.transfer.named_files import writable_places
from broker.core.errors import SetupError, VitrailError
from broker.core.files.planted_links import refuse_links
from broker.core.files.replace_file import replace_file
from broker.core.paths import Paths, find_paths
from broker.helpers.process.spawn import Child
from broker.host.launchers.bubblewrap.other_root import refuse_written_root
from broker.ipc.control.api import (
    LaunchBindRequest,
    LaunchEndRequest,
    LaunchPrepareRequest,
)
from broker.ipc.control.client import Client
from broker.ipc.control.methods import LAUNCH_BIND, LAUNCH_END, LAUNCH_PREPARE
from broker.viewer.sandboxes.time_zone import locale_environment, zone_environment
from policy.records.model import Nspawn, Podman, Record
from policy.records.places import is_held, root_tree

_Launch = TypeVar("_Launch", bound=Podman | Nspawn)
_END_SECONDS = 5.0
_READ_BYTES = 65536
_CRASHES = frozenset(
    {
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGSEGV,
        signal.SIGSYS,
    }
)
"""Signals that end a program through its own fault, not by a user's wish."""


@dataclass(frozen=True)
class HeldRun:
    """A record's program that a launcher starts here."""

    paths: Paths
    record: Record
    command: tuple[str, ...]
    home: KeptHome | None
    without_links: Mapping[Path, Path]
    """What the record binds, each path without its links."""
    steps: Steps

    @property
    def tree(self) -> Path | None:
        """The directory of its home."""
        return None if self.home is None else self.home.tree


def held(
    launch: type[_Launch],
    begin: Callable[[HeldRun, _Launch], Awaitable[tuple[str, int]]],
    check: Callable[[Record, _Launch], None] = lambda *_: None,
) -> RunRecord:
    """Return how records of a launch run, by what runs one: its name and exit code.

    ``check`` raises for a record that cannot run, before anything is made for it.
    """

    def run(
        record: Record, argv: Sequence[str] | None, *, quiet: bool, as_json: bool
    ) -> int:
        steps = Steps(quiet=quiet, as_json=as_json)
        name, code = trio.run(_run, record, argv, steps)
        return exit_code(name, code, as_json=as_json)

    async def _run(
        record: Record, argv: Sequence[str] | None, steps: Steps
    ) -> tuple[str, int]:
        """Start the broker if none runs, then the box; return its name and exit code."""
        paths, own = local_paths(), record.host.launch
        assert isinstance(own, launch)
        check(record, own)
        without_links, root = checked_binds(paths, record), root_tree(record)
        if root is not None:
            # guard: no sandbox writes to the root of a container
            refuse_written_root(
                root, writable_places(paths), record.where("launch.rootfs")
            )
        async with steps.shown():
            await ensure_broker(paths)
            with kept_home(paths, record.name, record.host.sandbox_class) as home:
                command = tuple(argv or record.host.command)
                prepared = HeldRun(paths, record, command, home, without_links, steps)
                return await begin(prepared, own)

    return run


def exit_code(name: str, code: int, *, as_json: bool) -> int:
    """Print the last line of ``--json``; return the shell's exit code.

    A crash is told: the window is gone, and no shell of the user's says why.
    """
    code = code if code >= 0 else 128 - code
    if as_json:
        render.json_line({"sandbox": name, "code": code})
    elif code - 128 in _CRASHES:
        number = signal.Signals(code - 128)
        render.note(
            f"the program in {name} crashed: {signal.strsignal(number)} ({number.name})"
        )
    return code


def checked_binds(paths: Paths, record: Record) -> dict[Path, Path]:
    """Return what a record binds, each path without its links.

    Raises RefusedError if no sandbox may have a path, or if another one may have made a
    link in it.
    """
    launch = record.host.launch
    assert is_held(launch)
    refuse_binds(paths, record, read_records(paths))
    root = root_tree(record)
    roots = () if root is None else (root,)
    return refuse_planted_links(paths, (*roots, *launch.read_only, *launch.read_write))


def refuse_planted_links(paths: Paths, binds: Iterable[Path]) -> dict[Path, Path]:
    """Refuse a path of a record that leads through a link which a sandbox may have made.

    The program that binds it would follow the link with the user's rights.  Returns
    each path without its links.
    """
    places = writable_places(paths)
    # guard: a bound path leads through no link of a sandbox
    return {path: refuse_links(path, places) for path in binds}


def local_paths() -> Paths:
    """Return this user's paths.  Raises SetupError for root and for two machines.

    Reads the machine's role, by which its key may be created (``role_here``).
    """
    refuse_root()
    paths = find_paths()
    if role_here(paths) is not None:
        raise SetupError(
            "cannot run a box or container: this machine is paired with another one",
            hint="to run a sandbox of the host, run 'brokerctl run SANDBOX' on the "
            "viewer",
        )
    return paths


def variables_of(record: Record) -> dict[str, str]:
    """Return language, terminal type, time zone and portal of a container's programs."""
    return {
        "LANG": os.environ.get("LANG") or "C.UTF-8",
        "TERM": os.environ.get("TERM") or "dumb",
        **zone_environment(record.viewer.timezone),
        **locale_environment(record.viewer),
        **portal_variables(record.name),
    }


def resolver_file(folder: Path, network: str) -> Path | None:
    """Write the resolv.conf(5) that containers with this network see."""
    if network == "none":
        return None
    # Late: most containers have no network, and start without this code.
    from broker.host.network.box_resolver import resolver_lines

    lines = resolver_lines(network=network)
    target = folder / f"resolv.conf.{network}"
    replace_file(target, lines.encode(), mode=0o644)  # for each user of the container
    return target


class WaitingProgram(Protocol):
    """A program that waits for its lease."""

    @property
    def child(self) -> Child:
        """The process that we started; its output is in its pipes."""
        ...

    @property
    def leader(self) -> int:
        """The process that the lease is held by."""
        ...

    def release(self) -> None:
        """Let the program run.  Raises OSError if the program has ended."""
        ...

    async def end(self) -> None:
        """End the program, if it has not ended; not cancellable."""
        ...


Start = Callable[[Path], Awaitable[WaitingProgram]]


async def leased(
    paths: Paths, record: str, start: Start, steps: Steps, text: str | None = None
) -> tuple[str, int]:
    """Run a held program under a lease; return the sandbox's name and the exit code.

    The broker prepares the lease, binds it to the program and ends it; in between, the
    program is released and its output copied.  ``start`` is given the directory of the
    lease's sockets; ``text`` is the record of a program that has none.
    """
    async with open_client(paths) as client:
        launch = await client.call(
            LAUNCH_PREPARE, LaunchPrepareRequest(record=record, ours=True, text=text)
        )
        steps.named(launch.sandbox)
        held: WaitingProgram | None = None
        try:
            held = await start(Path(launch.directory))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy_output, held.child, steps)
                await client.call(
                    LAUNCH_BIND, LaunchBindRequest(id=launch.id, leader=held.leader)
                )
                held.release()
                code = await held.child.wait()
                # Its last output is still in the pipes; a process that outlived it
                # and holds them is in its pid namespace, and ends with it.
                nursery.cancel_scope.deadline = trio.current_time() + 1
        finally:
            if held is not None:
                await held.end()
            await end_launch(client, launch.id)
    return launch.sandbox, code


async def end_launch(client: Client, launch: str) -> None:
    """Have the launch cleared away now; a broker that is gone does it later."""
    with trio.move_on_after(_END_SECONDS, shield=True), suppress(VitrailError):
        await client.call(LAUNCH_END, LaunchEndRequest(id=launch))


async def copy_output(child: Child, steps: Steps) -> None:
    """Pass the program's output on, escaped on a terminal."""
    async with trio.open_nursery() as nursery:
        for pipe in (child.popen.stdout, child.popen.stderr):
            if pipe is not None:
                nursery.start_soon(_copy, pipe.fileno(), steps)


async def _copy(fd: int, steps: Steps) -> None:
    """Copy a program's output to this command's, until its end."""
    os.set_blocking(fd, False)
    while True:
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, _READ_BYTES)
        if not data:
            return
        steps.output(data)

"""Run the program of a verb in a machine, a container or a box.

Apart from the verbs, because it imports what starting takes: an event loop, the
records, the launchers.  ``brokerctl run --help`` needs none of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NoReturn

import rich_click as click
import trio

from broker.cli import render
from broker.cli.launchers.bwrap import run_box
from broker.cli.launchers.table import launcher_of
from broker.cli.link.pairing.role import role_here
from broker.cli.policy.records import (
    hint_for_unknown,
    read_records,
    record_file,
    refuse_broken,
    require_correct,
)
from broker.cli.run.attached import AttachedProgram
from broker.cli.run.connect import broker_runs, open_client, systemd_runs
from broker.cli.run.options import StreamWords
from broker.cli.run.progress import Steps
from broker.cli.run.start import ensure_broker, refuse_root
from broker.core.errors import RefusedError, SetupError, VitrailError
from broker.core.escape import printable
from broker.core.parts.absent import needed
from broker.core.paths import Paths, find_paths
from broker.helpers.compositor_socket import find_compositor
from broker.host.required_parts import require_parts
from broker.ipc.control.api import RunItem, RunRequest
from broker.ipc.control.methods import RUN
from broker.net.link.wire_types import Role
from broker.wire.faults import NotFoundError
from policy.records.model import Record

_END_SECONDS = 15.0
"""For the broker to end what an interrupted run has started."""


def run_flatpak(app: str, argv: list[str], words: StreamWords) -> NoReturn:
    """Run an installed Flatpak application, and exit as it does."""
    from broker.cli.launchers.flatpak import run_app, take_app

    given = argv[1:] if argv[:1] == ["--"] else argv
    sys.exit(run_app(take_app(app), given, quiet=words.quiet, as_json=words.as_json))


def run_bwrap(
    argv: list[str],
    words: StreamWords,
    *,
    detach: bool,
    changed: bool,
    x11: bool,
    open_files: int | None,
) -> NoReturn:
    """Run a program of this machine's in a box, and exit as it does."""
    if detach:
        raise click.UsageError(
            "--detach cannot be used with --bwrap, whose box ends with this command"
        )
    if changed:
        raise click.UsageError(
            "--memory, --cpus, --network and --image cannot be used with --bwrap"
        )
    if x11:
        with needed("the display of X11 programs"):
            from broker.cli.x11.verb import require_xwayland

        require_xwayland()
    sys.exit(
        run_box(
            argv,
            quiet=words.quiet,
            as_json=words.as_json,
            x11=x11,
            open_files=open_files,
        )
    )


def run_held(
    record: Record,
    argv: list[str] | None,
    words: StreamWords,
    *,
    detach: bool,
    changed: bool,
) -> NoReturn:
    """Run a record's box or container, and exit as its program does."""
    if detach:
        unit = f"systemctl --user start vitrail-run@{record.name}"
        background = unit if systemd_runs() else f"brokerctl run {record.name} &"
        raise click.UsageError(
            f"--detach works only for machines; to run '{record.name}' in the "
            f"background, run '{background}'"
        )
    if changed:
        raise click.UsageError(
            "--memory, --cpus, --network and --image work only for machines: "
            f"'{record.name}' is a box or container"
        )
    run = launcher_of(record.host.launch.kind).run
    assert run is not None
    sys.exit(run(record, argv, quiet=words.quiet, as_json=words.as_json))


def on_host(
    root: str, first: str, rest: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """Return record and program's words of a run on this machine's own root.

    On a single machine, describes the root in a record.  Reads the machine's role, by
    which its key may be created (``role_here``).
    """
    paths = find_paths()
    if role_here(paths) is None:
        from broker.cli.run.image import record_of_host

        record_of_host(paths, read_records(paths).records)
    words = (first, *rest)
    return root, words if words[0] == "--" else ("--", *words)


def held_record(name: str) -> Record | None:
    """Return the record of a box that this command starts; None: the broker does.

    Reads the machine's role, by which its key may be created (``role_here``).
    """
    paths = find_paths()
    if role_here(paths) is not None:
        return None
    record = read_records(paths).records.get(name)
    if record is None or not record.host.launch.kind.holds:
        return None
    return record


def run_request(
    request: RunRequest, words: StreamWords, *, slow_only: bool = False
) -> NoReturn:
    """Have the broker run a program (``run``, ``exec``, ``shell``); exit with its code.

    Before that, brokerctl builds an absent image, starts the broker if none runs, and
    creates the domain or machine of a record whose kind needs one.  ``run_bwrap`` and
    ``run_held`` start boxes.
    """
    steps = Steps(quiet=words.quiet, as_json=words.as_json, slow_only=slow_only)
    last = trio.run(_run, request, steps)
    code = 0
    if last.exited is not None:
        code = last.exited.code if last.exited.code >= 0 else 128 - last.exited.code
    if words.as_json:
        ended = last.exited or last.started
        assert ended is not None
        render.json_line(
            {
                "sandbox": ended.sandbox,
                "program": ended.program,
                "code": last.exited.code if last.exited else None,
            }
        )
    elif last.started is not None:
        render.note(
            f"the program is running in {last.started.sandbox} (program "
            f"{last.started.program})"
        )
    sys.exit(code)


async def _run(request: RunRequest, steps: Steps) -> RunItem:
    """Run the program by the broker; return its end.

    Before that, builds an absent image, starts a broker if none runs, and creates the
    domain or machine of the record (``_its_domain``).
    """
    refuse_root()
    paths = find_paths()
    module = "broker.programs.local"
    record = _own_record(request, paths)
    if not broker_runs(paths):
        module = _module_here(paths)
        _check_first(request, paths)
    async with steps.shown():
        if record is not None and request.image is None:
            from broker.cli.run.image import ensure_image

            await ensure_image(paths, record, steps)
        began = trio.current_time()
        steps.begin("start the broker")
        if await ensure_broker(paths, module=module):
            steps.done("start the broker", trio.current_time() - began)
        async with (
            _its_domain(paths, record, request, steps),
            open_client(paths) as client,
        ):
            try:
                attached = AttachedProgram(
                    paths, steps, stdin=bool(request.stdin), tty=bool(request.tty)
                )
                return await attached.run(lambda take: client.call(RUN, request, take))
            except RefusedError as error:
                raise _explained(error, request, paths) from error
            except KeyboardInterrupt:
                # The broker ends the program, and the machine if this started it.
                with trio.move_on_after(_END_SECONDS):
                    await client.hang_up()
                raise


@asynccontextmanager
async def _its_domain(
    paths: Paths, record: Record | None, request: RunRequest, steps: Steps
) -> AsyncGenerator[None]:
    """Create the domain or machine of a record for this run."""
    make = None if record is None else launcher_of(record.host.launch.kind).make
    if record is None or make is None:
        yield
        return
    require_parts(record)
    changes = (request.memory_mib, request.cpus, request.network, request.image)
    if not request.wait or any(change is not None for change in changes):
        raise RefusedError(
            f"cannot change or detach the machine of '{record.name}', which is "
            "created for each run",
            where=record.where("launch.kind"),
            hint="omit --detach, --memory, --cpus, --network and --image",
        )
    async with make(paths, record, steps):
        yield


def _own_record(request: RunRequest, paths: Paths) -> Record | None:
    """Return the record whose image brokerctl builds before the run, or None.

    None on a host or a viewer of two machines: there the host builds its images.
    Reads the machine's role, by which its key may be created (``role_here``).
    """
    if role_here(paths) is not None:
        return None
    return read_records(paths).records.get(request.record)


def _module_here(paths: Paths) -> str:
    """Return the module of the broker to start for a run, by this machine's role.

    The role is in link.toml, or in the state directory's pairings; to read these creates
    this machine's key if the link's directory has none (``role_here``).

    A broker for one machine beside a link would run the same sandboxes with no viewer
    between them and this screen.
    """
    match role_here(paths):
        case Role.HOST:
            raise SetupError(
                "cannot start a broker for this run: this machine is a host, whose "
                "windows a viewer shows",
                hint="run the command on the viewer, and vitrail-host on this machine",
            )
        case Role.VIEWER:
            return "broker.programs.viewer"
        case None:
            return "broker.programs.local"


def _explained(error: RefusedError, request: RunRequest, paths: Paths) -> VitrailError:
    """Return the broker's refusal with hints from the record files.

    Prints all problems of a broken one and raises RefusedError (``refuse_broken``).
    """
    found = read_records(paths)
    if isinstance(error, NotFoundError):
        hint = hint_for_unknown(request.record, found.records, paths)
        return SetupError(error.message, hint=hint)
    problem = found.broken.get(request.record)
    if problem is not None and record_file(error.where) == problem.file:
        refuse_broken(found, problem, stderr=True)
    return error


def _check_first(request: RunRequest, paths: Paths) -> None:
    """Refuse what a broker would refuse, before one is started for it.

    Raises SetupError or RefusedError.
    """
    require_record(request.record, paths)
    if request.window is not False and find_compositor() is None:
        display = os.environ.get("WAYLAND_DISPLAY") or "wayland-0"
        raise SetupError(
            f"cannot show windows: no compositor answers at {printable(display)}",
            hint="run the command inside your Wayland session, or set "
            "WAYLAND_DISPLAY to its socket; to use a headless compositor, run "
            "'brokerctl demo'; to run a program that does not need a window, "
            "pass --no-window",
        )


async def ensure_broker_for_lease(record: str) -> None:
    """Start the broker of this machine for a lease, unless one runs.

    Not on a viewer, whose host has the machines.  Reads the machine's role, by which its
    key may be created (``role_here``).  Raises SetupError, RefusedError, UpstreamError.
    """
    paths = find_paths()
    role = role_here(paths)
    if role is Role.VIEWER or broker_runs(paths):
        return
    refuse_root()
    require_record(record, paths)
    module = "broker.programs.local" if role is None else "broker.programs.host"
    if await ensure_broker(paths, module=module):
        render.note("started the broker")


def require_record(name: str, paths: Paths) -> None:
    """Raise SetupError or RefusedError for a record that is broken or does not exist."""
    found = read_records(paths)
    require_correct(found, name)
    if name not in found.records:
        raise SetupError(
            f"no sandbox and no record is named '{printable(name, 60)}'",
            hint=hint_for_unknown(name, found.records, paths),
        )

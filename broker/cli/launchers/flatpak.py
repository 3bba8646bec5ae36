"""``brokerctl run --flatpak``: run an installed application under a lease."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.doctor.finding import Context, Finding, warn
from broker.cli.launchers.held import (
    checked_binds,
    exit_code,
    leased,
    local_paths,
)
from broker.cli.launchers.interface import Launcher
from broker.cli.launchers.setup import setup_errors
from broker.cli.policy.records import read_records
from broker.cli.quick.made_record import record_text, with_files
from broker.cli.run.progress import Steps
from broker.cli.run.start import ensure_broker
from broker.cli.transfer.named_files import writable_places
from broker.core.distribution import install_command
from broker.core.errors import SetupError, UpstreamError
from broker.core.parts.absent import is_installed, needed
from broker.core.paths import Paths
from broker.helpers.process.spawn import run_tool
from broker.host.launchers.flatpak.files import (
    held,
    overrides_folder,
    system_bus_names,
    write_override,
    x11_program,
)
from broker.host.launchers.flatpak.overrides import FlatpakPermissions
from broker.host.launchers.flatpak.process import HeldFlatpak, start_held
from broker.host.launchers.flatpak.separate import separate_instances
from policy.limits import LABEL_CHARS
from policy.records.launch_table import FLATPAK_APP
from policy.records.model import Flatpak, Record


def take_app(app: str) -> str:
    """Validate an application ID and return it.  Raises UsageError."""
    if len(app) > FLATPAK_APP.max_length or not re.fullmatch(FLATPAK_APP.regex, app):
        raise click.UsageError(
            f"{app!r} is not an application ID such as org.gnome.gedit; to list the "
            "installed applications, run 'flatpak list --app "
            "--columns=application'"
        )
    return app


def run_app(app: str, words: Sequence[str], *, quiet: bool, as_json: bool) -> int:
    """Run an application by its record, or by one made for the run, to its end.

    Starts the broker if none runs.  Returns its exit code, 128 and more for a signal.
    """
    paths = local_paths()
    for record in read_records(paths).records.values():
        launch = record.host.launch
        if isinstance(launch, Flatpak) and launch.app == app:
            return run_recorded_app(record, words, quiet=quiet, as_json=as_json)
    name = f"flatpak-{hashlib.sha256(app.encode()).hexdigest()[:6]}"
    text = record_text(app[:LABEL_CHARS], "flatpak") + f'app = "{app}"\n'
    run = _Run(paths, name, Flatpak(app), words, text, x11=None)
    return run.to_its_end(quiet=quiet, as_json=as_json)


def installed_at(app: str) -> Path:
    """Return where an application is installed.  Raises SetupError when it is not."""
    if shutil.which("flatpak") is None:
        raise SetupError("flatpak is not installed", hint=install_command("flatpak"))
    words = ["flatpak", "info", "--show-location", app]
    try:
        printed = trio.run(partial(run_tool, words, env=os.environ))
    except UpstreamError as error:
        raise SetupError(
            f"cannot find the Flatpak application {app}: {error.message}",
            hint="to list the installed applications, run 'flatpak list --app "
            "--columns=application'",
        ) from error
    return Path(os.fsdecode(printed.rstrip(b"\n")))


def run_recorded_app(
    record: Record, argv: Sequence[str] | None, *, quiet: bool, as_json: bool
) -> int:
    """Run the application of a record to its end; return as ``run_app``."""
    launch, x11 = record.host.launch, record.viewer.window.x11
    assert isinstance(launch, Flatpak)
    paths = local_paths()
    checked_binds(paths, record)
    run = _Run(paths, record.name, launch, argv or (), None, x11=x11)
    return run.to_its_end(quiet=quiet, as_json=as_json)


class _Run:
    """One run of an application."""

    def __init__(
        self,
        paths: Paths,
        record: str,
        launch: Flatpak,
        words: Sequence[str],
        text: str | None,
        *,
        x11: bool | None,
    ) -> None:
        """Prepare the run.

        ``x11`` None: as the application's own permissions have it.
        """
        self._paths = paths
        self._record = record
        self._launch = launch
        self._text = text
        self._x11 = x11
        self._program: str | None = None
        command, self._files = with_files(
            (launch.app, *words), Path.cwd(), writable_places(paths)
        )
        self._words = command[1:]
        self._system_names: Sequence[str] = ()

    def to_its_end(self, *, quiet: bool, as_json: bool) -> int:
        """Run the application, print its output; return its exit code."""
        installed = installed_at(self._launch.app)
        with setup_errors(f"cannot read the permissions of {self._launch.app}"):
            # Each time: an update of the application may have more.
            self._system_names = system_bus_names(installed)
            if self._x11 is not False:
                always = self._x11 is not None
                self._program = x11_program(installed, always=always)
        if self._x11:
            with needed("the display of X11 programs"):
                from broker.cli.x11.verb import require_xwayland

            require_xwayland()
        steps = Steps(quiet=quiet, as_json=as_json)
        name, code = trio.run(self._run, steps)
        return exit_code(name, code, as_json=as_json)

    async def _run(self, steps: Steps) -> tuple[str, int]:
        """Run the application under a lease, and wait for its end.

        Starts the broker if none runs, locks the application, writes its override file,
        and starts an X server if it shows X11.  Returns the sandbox's name and the exit
        code.
        """
        async with steps.shown():
            await ensure_broker(self._paths)
            with ExitStack() as stack:
                stack.enter_context(held(self._paths, self._launch.app))
                async with trio.open_nursery() as nursery:
                    start = partial(self._start, nursery, stack, steps)
                    done = await leased(
                        self._paths, self._record, start, steps, self._text
                    )
                    nursery.cancel_scope.cancel()
                return done

    async def _start(
        self, nursery: trio.Nursery, stack: ExitStack, steps: Steps, sockets: Path
    ) -> HeldFlatpak:
        """Write the override file; start the application, held until its lease has begun."""
        self._override(sockets)
        launch = self._launch
        server: XSocket | None = None
        start: Sequence[str] = ()
        if self._program is not None and self._can_show_x11():
            with needed("the display of X11 programs"):
                from broker.cli.x11.flatpak import XSocket, start_words

            with setup_errors("cannot create the socket of an X server"):
                server = XSocket(launch.app, sockets, stack, steps)
            start = start_words(sockets, self._program)
        held = start_held(
            launch.app,
            self._words,
            self._files,
            os.environ,
            open_files=launch.open_files,
            start=start,
        )
        runtime = Path(os.environ["XDG_RUNTIME_DIR"])
        nursery.start_soon(separate_instances, runtime, launch.app)
        if server is not None:
            nursery.start_soon(server.serve, held.leader)
        return held

    def _can_show_x11(self) -> bool:
        """Return whether X11 programs are shown: as the record says, or as is installed."""
        return bool(self._x11) or (
            is_installed("x11") and shutil.which("Xwayland") is not None
        )

    def _override(self, sockets: Path) -> None:
        """Write the application's override file for this lease."""
        launch = self._launch
        wanted = FlatpakPermissions(
            sockets,
            launch.share_network,
            launch.gpu == "buffers",
            launch.read_only,
            launch.read_write,
            self._system_names,
        )
        folder = overrides_folder(os.environ)
        with setup_errors(f"cannot write the override of {launch.app}"):
            first = write_override(self._paths, folder, launch.app, wanted)
        if first:
            render.note(
                f"from now on, {launch.app} has a display and sound only in "
                "Vitrail; to undo this, run 'brokerctl launcher remove flatpak "
                f"--app {launch.app}'; to start it in Vitrail from its menu entry, "
                "use 'launcher install' instead"
            )


async def _check(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Warn of records whose applications share the host's network."""
    del context
    names = [
        record.name for record in records if record.values.get("launch.share_network")
    ]
    if not names:
        return []
    text = f"{', '.join(sorted(names))}: share_network allows these applications to access "
    text += "abstract sockets, such as the socket of Xwayland"
    return [warn("launchers", text, "see docs/launchers/flatpak.md")]


LAUNCHER = Launcher(
    run=run_recorded_app, programs=(("flatpak", "flatpak"),), check=_check
)

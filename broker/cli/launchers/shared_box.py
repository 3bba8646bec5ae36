"""``brokerctl launcher exec``: run a command of toolbox or distrobox with a label.

Such a box shares the home directory and the runtime directory with the user, so
this is a label and no boundary: programs in it could use the real compositor.  What
they get by default are the sockets of a lease that lives as long as the command.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rich_click as click
import trio
from typing_extensions import override

from broker.cli.launchers.held import end_launch, local_paths
from broker.cli.policy.records import read_records
from broker.cli.run.connect import open_client
from broker.cli.run.start import ensure_broker
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.core.names import SandboxName
from broker.core.parts.absent import needed
from broker.core.paths import Paths
from broker.helpers.process.spawn import Child, spawn
from broker.ipc.control.api import LaunchBindRequest, LaunchPrepareRequest
from broker.ipc.control.methods import LAUNCH_BIND, LAUNCH_PREPARE
from policy.records.model import Record

_NAME_OPTIONS = ("-c", "--container", "-n", "--name")
_TOOLBOX_VALUES = ("-c", "--container", "-d", "--distro", "-r", "--release")
_RELATIVE = "podbox"
"""A program that mounts $XDG_RUNTIME_DIR/$WAYLAND_DISPLAY, whatever that begins with."""
_ROOTS = frozenset({"sudo", "doas"})
"""Programs that start another one as root."""
_GONE = ("DISPLAY", "WAYLAND_SOCKET", "XAUTHORITY")


@dataclass(frozen=True)
class BoxProgram:
    """A program that starts commands in boxes; ``command`` is what users type."""

    name: str
    command: str
    colour: str
    all_variables: bool
    """Whether a box gets the whole environment."""


BOXES = {
    box.name: box
    for box in (
        BoxProgram("toolbox", "toolbox", colour="grey", all_variables=False),
        BoxProgram("distrobox", "distrobox-enter", colour="purple", all_variables=True),
    )
}


def commands() -> Path:
    """Return the directory of our commands."""
    return Path.home() / ".local" / "bin"


def program_behind(name: str, wrappers: Path) -> Path | None:
    """Return the program of a name in PATH, and not our command for it."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    others = [one for one in folders if Path(one).resolve() != wrappers.resolve()]
    found = shutil.which(name, path=os.pathsep.join(others))
    return None if found is None else Path(found)


class _Program(NamedPath):
    """A program by its path, or by its name in PATH."""

    @override
    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        if "/" not in os.fspath(value):
            # Our own command of that name would start us again.
            value = program_behind(os.fspath(value), commands()) or value
        return super().convert(value, param, ctx)


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("kind", type=click.Choice(sorted(BOXES)))
@click.argument("program", type=_Program(path_type=Path, exists=True))
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def run_box(kind: str, program: Path, words: tuple[str, ...]) -> None:
    """Run PROGRAM, the original toolbox or distrobox, with labelled sockets."""
    sys.exit(run_shared_box(BOXES[kind], program, words))


def run_shared_box(box: BoxProgram, program: Path, words: Sequence[str]) -> int:
    """Run ``program`` with a separate lease; returns its exit code.

    The box's name is also the record of boxes that have none of their own name.  Raises SetupError without such a record.
    """
    return trio.run(_run, box, program, tuple(words))


def box_name(words: Sequence[str]) -> str | None:
    """Return the box that a command line names; None: it names none."""
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in _NAME_OPTIONS:
            return value if equals else next(iter(words[at + 1 :]), None)
        if word == "--":
            return None
    return None


def with_environment(
    box: BoxProgram, words: Sequence[str], values: dict[str, str], *, x11: bool = False
) -> list[str]:
    """Return a command line whose program gets these variables inside the box.

    toolbox passes WAYLAND_DISPLAY and X11's variables only, so 'toolbox run' gets env(1)
    before the program.  Podman passes what its options say, also under sudo(8).
    """
    if (at := _after_podman(words)) > 0:
        passed = [f"--env={name}={value}" for name, value in values.items()]
        return [*words[:at], *passed, *words[at:]]
    if box.all_variables or "run" not in words:
        return list(words)
    at = list(words).index("run") + 1
    while at < len(words) and words[at].startswith("-"):
        if words[at] == "--":
            at += 1
            break
        at += 2 if words[at] in _TOOLBOX_VALUES else 1
    if at >= len(words):
        return list(words)
    gone = () if x11 else _GONE
    inside = ["env", *(word for name in gone for word in ("-u", name))]
    inside += [f"{name}={value}" for name, value in values.items()]
    return [*words[:at], *inside, *words[at:]]


def _after_podman(words: Sequence[str]) -> int:
    """Return where options of 'podman exec' or 'podman run' begin; 0: neither is started.

    A podman behind another program of boxes is a program inside the box.
    """
    names = [Path(word).name for word in words]
    known = {
        "podman",
        *(box.name for box in BOXES.values()),
        *(box.command for box in BOXES.values()),
    }
    begin = next((at for at, name in enumerate(names) if name in known), -1)
    if begin < 0 or names[begin] != "podman" or (begin > 0 and names[0] not in _ROOTS):
        return 0
    verbs = (
        at for at, word in enumerate(words) if at > begin and word in {"exec", "run"}
    )
    return next(verbs, -1) + 1


def exporting(program: Path) -> list[str]:
    """Return the options with which distrobox-export writes entries that start our command."""
    if program.name != "distrobox-enter":
        return []
    ours = shlex.quote(f"DISTROBOX_ENTER_PATH={commands() / program.name}")
    return ["--additional-flags", f"--env {ours}"]


async def _run(box: BoxProgram, program: Path, words: tuple[str, ...]) -> int:
    """Run the box's command under a lease; return its exit code.

    Starts the broker if none runs.
    """
    paths = local_paths()
    found = _record(paths, box.name, words)
    record, x11 = SandboxName(found.name), found.viewer.window.x11
    await ensure_broker(paths)
    async with open_client(paths) as client:
        launch = await client.call(LAUNCH_PREPARE, LaunchPrepareRequest(record=record))
        try:
            await client.call(
                LAUNCH_BIND, LaunchBindRequest(id=launch.id, leader=os.getpid())
            )
            values = _values(launch.directory)
            if program.name.startswith(_RELATIVE):
                values |= relative_display(paths.runtime.parent, launch.directory)
            env = {k: v for k, v in os.environ.items() if k not in _GONE}
            # Outside of the box, which is no boundary: it needs nothing of the box.
            bridge, start = _bridge() if x11 else (-1, [])
            _, *inside = with_environment(box, [str(program), *words], values, x11=x11)
            child = spawn(
                [*start, program, *exporting(program), *inside],
                env={**env, **values},
                cwd=Path.cwd(),
                stdin=0,
                pass_fds=(bridge,) if x11 else (),
            )
            _pass_signals_on(child)
            code = await child.wait()
        finally:
            await end_launch(client, launch.id)
    return code if code >= 0 else 128 - code


def _bridge() -> tuple[int, list[str]]:
    with needed("the display of X11 programs"):
        from broker.cli.x11.verb import bridge_here

    return bridge_here()


def relative_display(runtime: Path, directory: str) -> dict[str, str]:
    """Return WAYLAND_DISPLAY as a name below XDG_RUNTIME_DIR.

    libwayland accepts a name with slashes, and the box mounts that directory.
    """
    socket = Path(directory, "wayland-0")
    return {"WAYLAND_DISPLAY": str(socket.relative_to(runtime))}


def write_opener() -> Path:
    """Write the program that opens addresses and files by the rules; return its path.

    It is in the home directory, which these boxes share. Raises OSError.
    """
    from shims.bundle import files_tool

    path, program = opener_files()
    path.parent.mkdir(parents=True, exist_ok=True)
    script = (
        f'#!/bin/sh\nexec python3 -I {shlex.quote(str(program))} vitrail-open "$@"\n'
    )
    for target, data in ((program, files_tool()), (path, script.encode())):
        replace_file(target, data, mode=0o755)
    return path


def opener_files() -> tuple[Path, Path]:
    """The program that opens addresses, and the part of it that does the work."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    folder = Path(data) / "vitrail"
    return folder / "vitrail-open", folder / "vitrail_files.py"


def _values(directory: str) -> dict[str, str]:
    """Return the variables by which programs in a box find its lease's sockets."""
    values = {
        "WAYLAND_DISPLAY": f"{directory}/wayland-0",
        "PULSE_SERVER": f"unix:{directory}/vitrail.Audio",
    }
    opener, _ = opener_files()
    if opener.is_file():
        # xdg-open and most programs ask BROWSER before anything else.
        values |= {
            "BROWSER": str(opener),
            "VITRAIL_OPEN_URL": f"unix:{directory}/vitrail.OpenURL",
            "VITRAIL_OPEN_FILE": f"unix:{directory}/vitrail.OpenFile",
            "VITRAIL_COPY": f"unix:{directory}/vitrail.FileCopy",
            "VITRAIL_CALL": f"unix:{directory}/vitrail.Call",
        }
    return values


def _pass_signals_on(child: Child) -> None:
    """Pass signals to the program, so that the lease ends after it.

    Ctrl-C reaches it without us, because it is in our process group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: child.popen.send_signal(number))


def _record(paths: Paths, kind: str, words: Sequence[str]) -> Record:
    """Return the record of the box: of its name, or that of its kind."""
    found = read_records(paths).records
    for name in (box_name(words), kind):
        record = found.get(name or "")
        if record is not None and not record.host.launch.kind.boundary:
            return record
    raise SetupError(
        f"there is no record '{kind}' with [launch] kind = \"shared-box\"",
        hint=f"to write the record, run 'brokerctl launcher install {kind}'",
    )

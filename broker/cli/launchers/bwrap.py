"""``brokerctl run --bwrap``: run a program of this machine in a box.

Without a record (``--bwrap``) one is made for the run: a separate sandbox with the
label "untrusted", windows and sound through the filters, and nothing else.  The rules
are asked about it as about any other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import trio

from broker.cli.launchers.held import (
    HeldRun,
    Start,
    exit_code,
    held,
    leased,
    local_paths,
    resolver,
    writable_places,
)
from broker.cli.launchers.interface import Launcher
from broker.cli.quick.made_record import (
    made_record,
    new_name,
    record_text,
    with_files,
)
from broker.cli.run.progress import Steps
from broker.cli.run.start import ensure_broker
from broker.host.devices.render_nodes import box_words
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.launchers.bubblewrap.process import HeldBox, start_held
from broker.viewer.sandboxes.time_zone import locale_environment
from policy.records.model import Bwrap

_NOT_YET = Path("/nonexistent")
"""In place of the sockets' directory until the broker has made it."""


def run_box(
    argv: Sequence[str], *, quiet: bool, as_json: bool, x11: bool = False
) -> int:
    """Run a program without a record to its end.

    Returns its exit code, 128 and more for a signal.
    """
    name = new_name()
    steps = Steps(quiet=quiet, as_json=as_json)
    code = trio.run(_run_unrecorded, name, tuple(argv), steps, x11)
    if code and not x11:
        # Late: most programs do not fail.
        from broker.cli.images.x11_needs import tell_failed

        tell_failed(argv[0])
    return exit_code(name, code, as_json=as_json)


async def _run_unrecorded(
    name: str,
    argv: tuple[str, ...],
    steps: Steps,
    x11: bool,  # noqa: FBT001 -- trio.run has no keyword arguments
) -> int:
    paths = local_paths()
    words, files = with_files(argv, Path.cwd(), writable_places(paths))
    async with steps.shown():
        await ensure_broker(paths)
        with made_record(paths, name, record_text("untrusted", "bwrap")):
            box = replace(_box(words, files), x11=x11)
            return (await leased(paths, name, _starter(box), steps))[1]


async def _begin(run: HeldRun, launch: Bwrap) -> tuple[str, int]:
    viewer = run.record.viewer
    shared = viewer.folders
    box = _box(run.command, launch.read_only, launch.read_write, run.tree)
    box = replace(
        box,
        locale=tuple(locale_environment(viewer).items()),
        resolver=resolver(launch.network),
        open_files=launch.open_files,
        user_namespaces=launch.user_namespaces,
        x11=viewer.window.x11,
        devices=box_words() if launch.gpu == "buffers" else (),
        without_links=run.without_links,
        folders=bool(shared.read_only or shared.read_write),
    )
    return await leased(run.paths, run.record.name, _starter(box), run.steps)


def _box(
    command: Sequence[str],
    files: tuple[Path, ...],
    writable: tuple[Path, ...] = (),
    home: Path | None = None,
) -> Box:
    """A box that learns language and terminal type of the user's environment."""
    box = Box(tuple(command), _NOT_YET, files, writable, home)
    return box.speaking_as(os.environ).reading(sys.stdin)


def _starter(box: Box) -> Start:
    """Return how to start a box with the sockets of its lease."""

    async def start(sockets: Path) -> HeldBox:
        return await start_held(replace(box, sockets=sockets))

    return start


LAUNCHER = Launcher(run=held(Bwrap, _begin), programs=(("bwrap", "bubblewrap"),))

"""``brokerctl run --bwrap``: run a program of this machine in a box.

Without a record (``--bwrap``) one is made for the run: a separate sandbox with the
label "untrusted", windows and sound through the filters, and nothing else.  The rules
are asked about it as about any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import trio

from broker.cli import render
from broker.cli.homes.kept_home import kept_home
from broker.cli.launchers.held import checked_binds, exit_code, local_paths
from broker.cli.launchers.interface import Launcher
from broker.cli.launchers.portal_programs import portal_variables
from broker.cli.quick.box import (
    described_box,
    leased,
    our_box,
    tell_problems_of_windows,
)
from broker.cli.quick.calls import ServiceCalls
from broker.cli.quick.made_record import box_text, new_name, with_files
from broker.cli.run.progress import Steps
from broker.cli.run.start import ensure_broker
from broker.cli.transfer.named_files import writable_places
from broker.core.escape import printable
from broker.core.files.planted_links import find_enclosing
from broker.core.paths import Paths
from broker.host.launchers.bubblewrap.answer import describe_box
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.launchers.bubblewrap.other_root import checked_root
from broker.ipc.control.blocking_connection import open_connection
from broker.viewer.sandboxes.time_zone import locale_environment
from policy.records.model import Bwrap, Record


def run_box(
    argv: Sequence[str],
    *,
    quiet: bool,
    as_json: bool,
    x11: bool = False,
    open_files: int | None = None,
) -> int:
    """Run a program in a box without a record, to its end.

    Starts the broker if none runs.  Returns the exit code, 128 and more for a signal.
    """
    name, paths = new_name(), local_paths()
    words, files = with_files(tuple(argv), Path.cwd(), writable_places(paths))
    trio.run(ensure_broker, paths)
    box = replace(our_box(words, files), x11=x11)
    text = box_text(name)
    if open_files:
        box = replace(box, open_files=open_files)
        text += f"open_files = {open_files}\n"
    code = _run(paths, name, box, text, quiet=quiet, as_json=as_json)
    if code:
        with open_connection(paths) as connection:
            tell_problems_of_windows(ServiceCalls(connection))
    if code and not x11:
        # Late: most programs do not fail.
        from broker.cli.images.x11_needs import tell_failed

        tell_failed(argv[0])
    return code


def _run_record(
    record: Record, argv: Sequence[str] | None, *, quiet: bool, as_json: bool
) -> int:
    """Start the broker if none runs; run a record's box to its end; return its exit code."""
    paths, launch, words = local_paths(), record.host.launch, tuple(argv or ())
    assert isinstance(launch, Bwrap)
    without_links = checked_binds(paths, record)
    root = launch.rootfs
    if root is not None:
        where = record.where("launch.rootfs")
        root = checked_root(root, writable_places(paths), where)
    trio.run(ensure_broker, paths)
    variables = locale_environment(record.viewer) | portal_variables(record.name)
    with kept_home(paths, record.name, record.host.sandbox_class) as home:
        own = None if home is None else home.tree
        words, files = with_named_files(words, own, writable_places(paths))
        # It would be mounted above its directory, and read-only.
        shared = [one.resolve() for one in launch.read_write]
        files = tuple(one for one in files if not any(map(one.is_relative_to, shared)))
        box = described_box(msgspec.to_builtins(describe_box(record, launch)), words)
        box = replace(
            box,
            files=(*box.files, *files),
            root=root,
            home=own,
            variables=tuple(variables.items()),
            without_links=without_links,
        )
        return _run(paths, record.name, box, None, quiet=quiet, as_json=as_json)


def with_named_files(
    words: tuple[str, ...], home: Path | None, writable: Iterable[Path]
) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Return a command, and the files of the user's that it names: as ``with_files``.

    A file of the sandbox's own home is meant by its name there.  A bare name, as of a verb
    or program, is no file of a folder that a sandbox may write to ('sh -c make').
    """
    here, named, places = Path.cwd(), list(words), list(writable)
    shared = find_enclosing(here.resolve(), places) is not None
    files: list[Path] = []
    for number, word in enumerate(words[1:], 1):
        inside = None if home is None or Path(word).is_absolute() else home / word
        if inside is not None and word and os.path.lexists(inside):
            continue
        # guard: a bare word of a command is no file that a sandbox has made
        if shared and "/" not in word:
            _tell_shared(word, here)
            continue
        (_, *changed), found = with_files((words[0], word), here, places)
        named[number] = changed[0]
        files += found
    return tuple(named), tuple(files)


def _tell_shared(word: str, here: Path) -> None:
    """Print how a file is named that is beside files of a sandbox."""
    # Path.is_file raises for a word that is too long to be a name (Python 3.11).
    there = os.path.isfile(here / word)  # noqa: PTH113
    if there and not word.startswith("-"):
        name = printable(word, 60)
        render.note(
            f"'{name}' is not taken for the file of that name, because a sandbox "
            "may write to this folder; to make the file readable inside, write "
            f"'./{name}'"
        )


def _run(
    paths: Paths,
    record: str,
    box: Box,
    text: str | None,
    *,
    quiet: bool,
    as_json: bool,
) -> int:
    steps = Steps(quiet=quiet, as_json=as_json)
    with open_connection(paths) as connection:
        name, code = leased(
            ServiceCalls(connection), record, box, steps.output, text, named=steps.named
        )
    return exit_code(name, code, as_json=as_json)


LAUNCHER = Launcher(run=_run_record, programs=(("bwrap", "bubblewrap"),))

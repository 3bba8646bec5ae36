"""``brokerctl run`` of a box without an event loop, and without click.

The window of such a box is on the screen before trio, click and msgspec would have
been imported.  ``run`` and ``run_record`` serve the plain cases: a broker runs, and no
option asks for more than quiet.  They read no record: the broker, which has read it,
describes its box.  ``launchers.bwrap`` prepares all other boxes, and reports the mistake
if nothing can be run; ``leased`` runs those, too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from broker.cli.quick.box_needs import note_needs
from broker.cli.quick.calls import ServiceCalls, open_calls
from broker.cli.quick.made_record import (
    box_text,
    leads_through_links,
    new_name,
    with_files,
)
from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.files.planted_links import private_directory
from broker.core.paths import Paths, find_paths
from broker.core.services import LINKS_VARIABLE, PORTAL_VARIABLES, PRINTER_VARIABLE
from broker.helpers.mounts.bound_files import BoundFiles
from broker.host.gpu.render_nodes import box_words
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.launchers.bubblewrap.command import prepare
from broker.host.launchers.bubblewrap.process import Write, held_box

_SILENT_SECONDS = 2.0
"""A program that has ended sooner, without output, probably waited for input."""


def run(words: tuple[str, ...]) -> int | None:
    """Run a program to its end and return its exit code, 128 and more for a signal.

    None, and nothing has been done, where ``launchers.bwrap`` must do it.  Has the
    broker prepare a launch, starts bubblewrap, and writes the program's output.
    """
    # guard: a box in haste follows no link
    if leads_through_links(words, Path.cwd()):
        return None
    with ExitStack() as stack:
        paths = _paths()
        broker = None if paths is None else open_calls(stack, paths)
        if paths is None or broker is None:
            return None
        name = new_name()
        command, files = with_files(words, Path.cwd())
        box, text = our_box(command, files), box_text(name)
        _, code = leased(broker, name, box, _write, text)
        if code:
            tell_problems_of_windows(broker)
    if code:
        # Late: most programs do not fail.
        from broker.cli.images.x11_needs import tell_failed

        tell_failed(words[0])
    return code if code >= 0 else 128 - code


def run_record(name: str, words: tuple[str, ...]) -> int | None:
    """Run the program of a record, or another one, in its box; returns as ``run``."""
    # Path.is_file raises for a word that is too long to be a name (Python 3.11).
    if any(os.path.isfile(word) for word in words[1:]):  # noqa: PTH113
        return None
    if words and "://" in words[0]:
        return None  # the verb says that it is an address
    with ExitStack() as stack:
        paths = _paths()
        broker = None if paths is None else open_calls(stack, paths)
        found = None if broker is None else _described(broker, name)
        if paths is None or broker is None or found is None:
            return None
        box = described_box(found, words)
        # guard: the box of a record in haste binds no path by a link
        if any(os.path.realpath(path) != str(path) for path in box.binds):
            return None
        # guard: the box of a record in haste binds no directory of Vitrail's
        if any(private_directory(path, paths) for path in box.binds):
            return None
        if found["sandbox_class"] != "disposable":
            # Late: it reads files of state, which most boxes have not.
            from broker.cli.homes.kept_home import kept_home

            kept = kept_home(paths, name, str(found["sandbox_class"]))
            home = stack.enter_context(kept)
            box = replace(box, home=None if home is None else home.tree)
        with suppress(VitrailError):  # an earlier broker has no such method
            answer = broker.call("PortalUse", {"record": name})
            printer = {PRINTER_VARIABLE: "1"} if answer.get("prints") is True else {}
            schemes = " ".join(_texts(answer.get("schemes")))
            links = {LINKS_VARIABLE: schemes} if schemes else {}
            portal = PORTAL_VARIABLES if answer.get("uses") is True else {}
            box = replace(box, variables=tuple({**printer, **links, **portal}.items()))
        _, code = leased(broker, name, box, _write)
    return code if code >= 0 else 128 - code


def tell_problems_of_windows(broker: ServiceCalls) -> None:
    """Print why the broker shows no window, after a program that has failed.

    Its own words are of a socket inside, or none.
    """
    with suppress(VitrailError):
        for problem in _texts(broker.call("Status", {}).get("warnings")):
            if "compositor" in problem:
                sys.stderr.write(f"no window: {problem}\n")


def _described(broker: ServiceCalls, name: str) -> dict[str, object] | None:
    """Return how a record's box is started; None for a record of another kind."""
    try:
        found = broker.call("LaunchBox", {"record": name})
    except VitrailError:
        return None  # unknown to the broker; launchers.bwrap reports all other errors
    return found if isinstance(found.get("sandbox_class"), str) else None


def described_box(found: dict[str, object], words: tuple[str, ...]) -> Box:
    """Return the box of a ``LaunchBoxAnswer`` as JSON has it, for these words or its own.

    It has language, terminal type and standard input of this process.
    """
    resolver = None
    if found["network"] != "none":
        # Late, as above.
        from broker.host.network.box_resolver import resolver_lines

        resolver = resolver_lines(network=str(found["network"]))
    files, writable = (
        tuple(Path(path) for path in _texts(found[key]))
        for key in ("read_only", "read_write")
    )
    command = words or tuple(_texts(found["command"]))
    most, memory = found["open_files"], found.get("memory_mounts")
    box = replace(
        our_box(command, files),
        writable=writable,
        resolver=resolver,
        user_namespaces=found.get("user_namespaces") is True,
        x11=found.get("x11") is True,
        devices=box_words() if found.get("gpu") is True else (),
        # A broker that does not know the key may mount some.
        folders=found.get("folders") is not False,
        memory_mounts=_sizes(memory),
    )
    return replace(box, open_files=most) if isinstance(most, int) else box


def our_box(command: tuple[str, ...], files: tuple[Path, ...]) -> Box:
    """Return a box with language, terminal type and standard input of this process."""
    return Box(command, Path(), files).speaking_as(os.environ).reading(sys.stdin)


def _sizes(found: object) -> tuple[tuple[Path, int], ...]:
    """Return the paths of file systems in memory, and their sizes."""
    sizes = found if isinstance(found, dict) else {}
    return tuple((Path(path), size) for path, size in sizes.items())


def _texts(found: object) -> list[str]:
    return [str(text) for text in found] if isinstance(found, list) else []


def _paths() -> Paths | None:
    """Return this user's paths; None for root, and on one of two machines."""
    try:
        paths = find_paths()
    except VitrailError:
        return None
    linked = (paths.state / "link", *(path / "link.toml" for path in paths.config))
    other = os.geteuid() == 0 or any(path.exists() for path in linked)
    return None if other else paths


def leased(
    broker: ServiceCalls,
    record: str,
    box: Box,
    write: Write,
    text: str | None = None,
    *,
    named: Callable[[str], None] = lambda _: None,
) -> tuple[str, int]:
    """Run a box under a lease to its end; ``write`` gets its output.

    ``text`` is the record of a program that has none; ``named`` gets the sandbox's name
    before the program starts.  Returns that name and the exit code, -N for a signal.
    Raises VitrailError.
    """
    request = {"record": record, "ours": True}
    broker.begin(
        "LaunchPrepare", request if text is None else {**request, "text": text}
    )
    with ExitStack() as launched, ExitStack() as ours:
        note_needs(box, record, lasting=text is None)  # while the broker is busy
        try:
            # Takes as long as the broker does to answer.
            files = BoundFiles(box.binds, box.without_links, ours)
            command = prepare(box, ours)
        finally:
            launch = broker.answer()
            number = str(launch["id"])
            launched.callback(_end_launch, broker, number)
        named(str(launch["sandbox"]))
        sockets = Path(str(launch["directory"]))
        with held_box(command, sockets, ours, write) as held:
            # Its folders are mounted by the broker, and all else while that leases it.
            if box.folders:
                held.check(files)
            broker.begin("LaunchBind", {"id": number, "leader": held.leader})
            try:
                if not box.folders:
                    held.check(files)
            except UpstreamError:
                broker.answer()  # if the broker has ended the box, it says why
                raise
            broker.answer()
            heard = _Heard(write)
            held.release()
            code = held.run_to_end(heard)
            if not box.stdin:
                heard.tell_silence(box.command)
            return str(launch["sandbox"]), code


class _Heard:
    """Passes a program's output on, and notes whether there was any."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._began = time.monotonic()
        self._any = False

    def __call__(self, untrusted_data: bytes) -> None:
        self._any = True
        self._write(untrusted_data)

    def tell_silence(self, command: tuple[str, ...]) -> None:
        """Tell a user at a terminal why a shell or interpreter has ended at once.

        A box is not attached to the terminal, so it has read the end of its input.
        """
        quick = time.monotonic() - self._began < _SILENT_SECONDS
        if self._any or not quick or len(command) != 1:
            return
        if sys.stdin is None or sys.stdin.closed or not sys.stdin.isatty():
            return
        name = printable(command[0], 60)
        sys.stderr.write(
            f"{name} ended without output: a box has no terminal and no input.\n  "
            "hint: run a terminal emulator in the box that runs it: 'foot "
            f"{name}'\n"
        )


def _end_launch(broker: ServiceCalls, number: str) -> None:
    # A broker that is gone does it later.
    with suppress(VitrailError):
        broker.call("LaunchEnd", {"id": number})


def _write(untrusted_data: bytes) -> None:
    """Print output of the program, escaped on a terminal."""
    from broker.cli.quick.output import write_output

    write_output(sys.stdout, untrusted_data)

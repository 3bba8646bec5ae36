"""``brokerctl run`` of a box without an event loop, and without click.

The window of such a box is on the screen before trio, click and msgspec would have
been imported.  It is taken for the plain cases alone: a broker runs, and no option
asks for more than quiet.  A record is not read here: the broker, which has read it,
describes its box.  ``launchers.bwrap`` does the same for all others, and reports the mistake
where nothing can be run at all.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from broker.cli.quick.calls import Calls, open_calls
from broker.cli.quick.made_record import (
    leads_through_links,
    made_record,
    new_name,
    record_text,
    with_files,
)
from broker.core.errors import UpstreamError, VitrailError
from broker.core.paths import Paths, find_paths
from broker.helpers.bubblewrap_status import STATUS_BYTES, leader_of, read_line
from broker.helpers.mounts.bound_files import BoundFiles
from broker.helpers.process.gate import READY, Gate
from broker.helpers.process.namespace_limits import limit_box
from broker.helpers.process.popen import PIPE, kill_jail, start_process
from broker.host.devices.render_nodes import box_words
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.launchers.bubblewrap.command import kill, prepare, require_ready

_READ_BYTES = 65536
_LAST_OUTPUT_SECONDS = 1.0


def run(words: tuple[str, ...]) -> int | None:
    """Run a program to its end and return its exit code, 128 and more for a signal.

    None, and nothing has been done, where ``launchers.bwrap`` must do it.
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
        stack.enter_context(made_record(paths, name, record_text("untrusted", "bwrap")))
        box = Box(command, Path(), files).speaking_as(os.environ).reading(sys.stdin)
        code = _leased(broker, name, box)
    if code:
        # Late: most programs do not fail.
        from broker.cli.images.x11_needs import tell_failed

        tell_failed(words[0])
    return code if code >= 0 else 128 - code


def run_record(name: str, words: tuple[str, ...]) -> int | None:
    """Run the program of a record, or another one, in its box; returns as ``run``."""
    with ExitStack() as stack:
        paths = _paths()
        broker = None if paths is None else open_calls(stack, paths)
        found = None if broker is None else _described(broker, name)
        if paths is None or broker is None or found is None:
            return None
        box = _box(found, words)
        # guard: the box of a record in haste binds no path by a link
        if any(os.path.realpath(path) != str(path) for path in box.binds):
            return None
        if found["sandbox_class"] != "disposable":
            # Late: it reads files of state, which most boxes have not.
            from broker.cli.quick.kept_home import kept_home

            kept = kept_home(paths, name, str(found["sandbox_class"]))
            home = stack.enter_context(kept)
            box = replace(box, home=None if home is None else home.tree)
        box = box.speaking_as(os.environ).reading(sys.stdin)
        code = _leased(broker, name, box)
    return code if code >= 0 else 128 - code


def _described(broker: Calls, name: str) -> dict[str, object] | None:
    """Return how a record's box is started; None for a record of another kind."""
    try:
        found = broker.call("LaunchBox", {"record": name})
    except VitrailError:
        return None  # one that does not know it; launchers.bwrap reports all others
    return found if isinstance(found.get("sandbox_class"), str) else None


def _box(found: dict[str, object], words: tuple[str, ...]) -> Box:
    resolver = None
    if found["network"] != "none":
        # Late, as above.
        from broker.host.box_resolver import resolver_lines

        resolver = resolver_lines(network=str(found["network"]))
    files, writable = (
        tuple(Path(path) for path in _texts(found[key]))
        for key in ("read_only", "read_write")
    )
    command = words or tuple(_texts(found["command"]))
    box = Box(command, Path(), files, writable, resolver=resolver)
    most = found["open_files"]
    box = replace(
        box,
        user_namespaces=found.get("user_namespaces") is True,
        x11=found.get("x11") is True,
        devices=box_words() if found.get("gpu") is True else (),
        # A broker that does not know the key may mount some.
        folders=found.get("folders") is not False,
    )
    return replace(box, open_files=most) if isinstance(most, int) else box


def _texts(found: object) -> list[str]:
    return [str(text) for text in found] if isinstance(found, list) else []


def _paths() -> Paths | None:
    """This user's paths; None for root, and where this may be one of two machines."""
    try:
        paths = find_paths()
    except VitrailError:
        return None
    linked = (paths.state / "link", *(path / "link.toml" for path in paths.config))
    other = os.geteuid() == 0 or any(path.exists() for path in linked)
    return None if other else paths


def _leased(broker: Calls, name: str, box: Box) -> int:
    launch = broker.call("LaunchPrepare", {"record": name, "ours": True})
    number = str(launch["id"])
    try:
        with _held(replace(box, sockets=Path(str(launch["directory"])))) as held:
            broker.call("LaunchBind", {"id": number, "leader": held.leader})
            held.release()
            return held.run_to_end(_write)
    finally:
        # A broker that is gone does it later.
        with suppress(VitrailError):
            broker.call("LaunchEnd", {"id": number})


@dataclass(frozen=True)
class _Running:
    """A started box."""

    bwrap: int
    """A pidfd of bubblewrap's process outside, which ends with the box's own code."""
    leader: int
    """The first process inside, as its pid is outside."""
    gate: Gate
    stdin: bool
    output: tuple[int, ...]
    wait: Callable[[], int]

    def release(self) -> None:
        """Let the program run.  Raises OSError when bubblewrap has gone."""
        if self.stdin:
            self.gate.open_with_input(0)
        else:
            self.gate.open()

    def run_to_end(self, write: Callable[[bytes], None]) -> int:
        """Pass the program's output on until it ends; return its exit code."""
        waiting = select.poll()
        for fd in (self.bwrap, *self.output):
            waiting.register(fd, select.POLLIN)
        still, deadline = len(self.output), float("inf")
        while still and (left := deadline - time.monotonic()) > 0:
            for fd, _ in waiting.poll(None if left == float("inf") else left * 1000):
                if fd == self.bwrap:
                    # Its last output is still in the pipes.
                    deadline = time.monotonic() + _LAST_OUTPUT_SECONDS
                elif data := os.read(fd, _READ_BYTES):
                    write(data)
                    continue
                else:
                    still -= 1
                waiting.unregister(fd)
        return self.wait()


@contextmanager
def _held(box: Box) -> Iterator[_Running]:
    """Start a box whose program waits for its release; it ends with the block."""
    with ExitStack() as ours:
        files = BoundFiles(box.binds, {}, ours) if box.binds else None
        command = prepare(box, ours)
        popen = start_process(
            command.argv,
            pass_fds=command.pass_fds,
            stdin=command.stdin,
            stdout=PIPE,
            stderr=PIPE,
        )
        command.theirs.close()
        assert popen.stdout is not None
        assert popen.stderr is not None
        output = popen.stdout.fileno(), popen.stderr.fileno()
        started = False
        try:
            bwrap = os.pidfd_open(popen.pid)  # not reaped, so the pid was not reused
            ours.callback(os.close, bwrap)
            leader = leader_of(read_line(command.status, STATUS_BYTES), "the box")
            pidfd = _pidfd(leader)
            ours.callback(os.close, pidfd)
            # The first process inside, before bwrap outside: that asks the kernel
            # late to end the box with it.
            ours.callback(kill, pidfd)
            require_ready(read_line(output[0], len(READY)))
            if files is not None:
                files.check(leader)
            limit_box(leader, nested=box.user_namespaces)
            started = True
            gate = command.gate
            yield _Running(bwrap, leader, gate, box.stdin, output, popen.wait)
        finally:
            ours.close()
            if popen.returncode is None:
                kill_jail(popen.pid)
            popen.wait()
            if not started:
                os.set_blocking(output[1], False)
                with suppress(BlockingIOError):
                    _write(os.read(output[1], _READ_BYTES))
            popen.stdout.close()
            popen.stderr.close()


def _pidfd(leader: int) -> int:
    try:
        return os.pidfd_open(leader)
    except OSError as error:
        raise UpstreamError(
            f"cannot watch the first process of the box (pid {leader}): {error.strerror}",
            hint="if the reason is 'No such process', the box ended during its start",
        ) from error


def _write(untrusted_data: bytes) -> None:
    """Print output of the program, escaped on a terminal."""
    from broker.cli.quick.output import write_output

    write_output(sys.stdout, untrusted_data)

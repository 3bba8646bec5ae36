"""Put an edit in force for a time, and keep it only if the user confirms it.

The file is in the runtime directory, before the permanent ones.  So it is removed when
the time is over, when the terminal goes, when brokerctl is killed (``policy_undo``) and
when the machine restarts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from broker.cli import render
from broker.cli.policy.install import put
from broker.cli.policy.undo import take_back
from broker.core.errors import RefusedError
from broker.core.paths import find_paths
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import DEVNULL, spawn


class Lines:
    """Lines of standard input, which may also be waited for until a time.

    Python's own buffer would hold lines that select(2) then does not see.
    """

    def __init__(self) -> None:
        self._waiting = b""

    def next(self, deadline: float | None = None) -> str | None:
        """Return the next line; None at the end of the input or of the time."""
        while b"\n" not in self._waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([0], [], [], left)
            chunk = os.read(0, 4096) if ready else b""
            if not chunk:
                return None
            self._waiting += chunk
        line, _, self._waiting = self._waiting.partition(b"\n")
        return line.decode("utf-8", "replace").strip()


LINES = Lines()
"""The one standard input."""


# A trial edit is kept in the runtime directory. `policy edit --confirm 60s` must revert
# itself when the user does not confirm, also when the terminal is lost, brokerctl is
# killed or the machine restarts. Writing the new file in place and the old one back
# later needs a process that is alive then. A file in the runtime directory shadows the
# permanent one of the same name, and removing it is enough to restore the old state: a
# separate process removes it, and a restart does so automatically. The price: it works
# for what this user's broker reads, not for what root edits on behalf of others.
def _trial_file(file: Path) -> Path:
    return find_paths().runtime / file.parent.name / file.name


def refuse_trial(base: Path, file: Path) -> None:
    """Refuse a directory that this user's broker does not read, and a second trial.

    Raises RefusedError.
    """
    trial = _trial_file(file)
    if base not in find_paths().config:
        raise RefusedError(
            f"--confirm works only for directories that your broker reads, not {base}",
            hint="edit without --confirm, or as the user whose broker reads the "
            "directory",
        )
    if os.path.lexists(trial):
        raise RefusedError(
            f"cannot edit {file} with --confirm: the unconfirmed edit {trial} takes "
            "precedence",
            hint=f"wait until that edit is confirmed or reverted, or remove {trial}",
        )


def on_trial(
    file: Path, new: bytes, seconds: int, refuse_changed: Callable[[], None]
) -> None:
    """Put new content in force for a time; keep it only if the user confirms it.

    A separate process, which outlives brokerctl, removes the trial's file at its end.
    ``refuse_changed`` raises RefusedError where ``file`` is not as it was.  Raises
    RefusedError if the user has not confirmed it.
    """
    trial = _trial_file(file)
    digest = hashlib.sha256(new).hexdigest()
    _make(trial.parent)
    undo = spawn(
        our_program("broker.cli.policy.undo", str(trial), digest, str(seconds)),
        name="policy-undo",
        stdout=DEVNULL,  # a pipe would be open as long as it runs
        stderr=DEVNULL,
        outlive_us=True,
    )
    kept = False
    try:
        with _signals_end_us():
            put(trial, new)
            render.note(
                f"the edit is in force for {seconds} s; to keep the edit, type "
                "'keep' and press Enter"
            )
            kept = _kept(seconds)
            if kept:
                # guard: a trial that is kept undoes no other change
                refuse_changed()
                put(file, new)
    finally:
        # Also when the permanent place could not be written.
        taken = take_back(trial, digest)
        undo.kill_now()
    changed = not taken and os.path.lexists(trial)
    since = f"{trial} was changed in the meantime and remains in force"
    if kept:
        render.note(f"installed {file}")
        if changed:
            render.note(f"warning: {since}; to revert that change, remove {trial}")
        return
    if changed:
        raise RefusedError(
            f"the edit was not confirmed, but {since}",
            hint=f"to revert the change, remove {trial}",
        )
    what = "was reverted" if taken else "had already been reverted"
    raise RefusedError(
        f"the edit was not confirmed and {what}",
        hint="to keep an edit, edit the file again and type 'keep'",
    )


def _make(folder: Path) -> None:
    """Make the runtime directory, which only the broker's user may use (0700)."""
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RefusedError(
            f"cannot create {folder}: {error.strerror}",
            hint="set XDG_RUNTIME_DIR to the runtime directory of your session",
        ) from error


def _kept(seconds: int) -> bool:
    """Return whether the user types 'keep' in time; any other line is a refusal."""
    deadline = time.monotonic() + seconds
    while (line := LINES.next(deadline)) == "":
        continue
    return line == "keep"


@contextlib.contextmanager
def _signals_end_us() -> Iterator[None]:
    """Exit on SIGHUP and SIGTERM, so that a lost terminal reverts the edit at once."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    numbers = (signal.SIGHUP, signal.SIGTERM)
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

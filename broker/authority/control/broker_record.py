"""The processes of a running broker, written down for who has to end it.

A broker that answers nobody cannot say which process it is.  The file is beside the
audit log, of which one broker is the owner: a runtime directory may be another one after
the user has logged in again.  What it names is ended only where the kernel says that it
is the process that was written down, the user's, and a broker of this program.

The authority writes the file and removes it at its end; the broker that starts reads it
first, and ``brokerctl stop --broker --force`` does so to end these processes.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.core.process_status import status_fields
from broker.core.stderr_log import log_stderr
from broker.helpers.process.identity import (
    ProcessIdentity,
    boot_id,
    identity_of,
)

_FILE = "broker.json"
_BYTES = 1 << 12
_UNKNOWN = "'brokerctl stop --broker --force' will not find this broker"
_ROLES = ("local", "viewer", "host")
_MODULES = frozenset(f"broker.programs.{role}" for role in _ROLES)
_PROGRAMS = frozenset(f"vitrail-{role}" for role in _ROLES)
_AUTHORITY = "broker.programs.authority"


class BrokerRecord(msgspec.Struct, frozen=True):
    """A broker's first process, and its authority's; valid for one boot."""

    boot: str
    broker: ProcessIdentity
    authority: ProcessIdentity


@dataclass(frozen=True)
class HeldProcess:
    """A process of a broker, by a pidfd that the block of ``open_recorded`` closes."""

    pid: int
    pidfd: int


def record_of(broker: int) -> BrokerRecord | None:
    """Return the record of a broker whose authority this process is.

    ``broker`` is its first process.  None if the kernel hides it, as procfs does with
    ``hidepid``: that is logged.
    """
    try:
        return BrokerRecord(boot_id(), _identity(broker), _identity(os.getpid()))
    except (OSError, SetupError) as error:
        log_stderr(f"vitrail: {_UNKNOWN}: {error}")
        return None


def save_record(state: Path, record: BrokerRecord | None) -> None:
    """Write the record of the broker that now serves; log where that fails."""
    if record is None:
        return
    try:
        replace_file(state / _FILE, msgspec.json.encode(record))
    except OSError as error:
        log_stderr(f"vitrail: {_UNKNOWN}: {error}")


def remove_record(state: Path, record: BrokerRecord | None) -> None:
    """Remove the record of this broker, which ends."""
    if record is not None and _read(state) == record:
        (state / _FILE).unlink(missing_ok=True)


def hold_runtime(runtime: Path) -> None:
    """Lock the runtime directory while this process lives, against systemd-tmpfiles.

    That removes what is old where XDG_RUNTIME_DIR is below /tmp, and skips what is
    locked (tmpfiles.d(5)).  Files of sandboxes that run, and directories that a
    confined viewer may not make again, are there.
    """
    place = os.open(runtime, os.O_DIRECTORY | os.O_CLOEXEC)
    # Never closed.  Another process's lock serves as well.
    with suppress(BlockingIOError):
        # guard: what runs loses no file to a cleaner
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def open_recorded(state: Path) -> Iterator[Sequence[HeldProcess]]:
    """Yield the first process of the broker and its authority, those that still run.

    Raises SetupError without /proc.
    """
    record = _read(state)
    with ExitStack() as stack:
        held: list[HeldProcess] = []
        # guard: a number of an earlier boot names no process
        if record is not None and record.boot == boot_id():
            ours = (record.broker, _is_broker), (record.authority, _is_authority)
            for identity, is_ours in ours:
                try:
                    pidfd = os.pidfd_open(identity.pid)
                except (OSError, OverflowError):
                    continue
                stack.callback(os.close, pidfd)
                if not _is_recorded(identity, pidfd):
                    continue
                # guard: a record that another program wrote ends no program of the user's
                if is_ours(_words(identity.pid)):
                    held.append(HeldProcess(identity.pid, pidfd))
        yield held


def end_remains(state: Path) -> int:
    """End the first process of a broker whose authority has gone; return its pid, or 0.

    A broker ends with its authority; one whose viewer was taken over, and killed the
    authority, does not.  Called before another one starts.  Raises SetupError, OSError.
    """
    with open_recorded(state) as held:
        alive = [_words(one.pid) for one in held]
        if len(held) != 1 or _is_authority(alive[0]):
            return 0
        # guard: a viewer that killed its authority does not stay beside another broker
        signal.pidfd_send_signal(held[0].pidfd, signal.SIGKILL)
        return held[0].pid


def _read(state: Path) -> BrokerRecord | None:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(state / _FILE, flags)
    except OSError:
        return None
    try:
        return msgspec.json.decode(os.read(fd, _BYTES), type=BrokerRecord)
    except (OSError, *UNREADABLE):
        return None
    finally:
        os.close(fd)


def _identity(pid: int) -> ProcessIdentity:
    pidfd = os.pidfd_open(pid)
    try:
        return identity_of(pid, pidfd)
    finally:
        os.close(pidfd)


def _is_recorded(recorded: ProcessIdentity, pidfd: int) -> bool:
    """Return whether the process is the recorded one, and this user's."""
    try:
        found = identity_of(recorded.pid, pidfd)
        # The owner of /proc/PID is root's for a process that may not be traced.
        uid = status_fields(recorded.pid)["Uid"][0]
    except (OSError, LookupError):
        return False
    # guard: a number that another process has is not the broker's
    return found == recorded and uid == str(os.getuid())


def _words(pid: int) -> list[str]:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in line.split(b"\0")]


def _is_broker(words: Sequence[str]) -> bool:
    """Return whether these are the words of a broker's first process.

    Its module is ours, or Python executes its program.
    """
    if not _MODULES.isdisjoint(words):
        return True
    interpreter, *rest = [Path(word).name for word in words] or [""]
    script = next((word for word in rest if not word.startswith("-")), "")
    return interpreter.startswith("python") and script in _PROGRAMS


def _is_authority(words: Sequence[str]) -> bool:
    return _AUTHORITY in words

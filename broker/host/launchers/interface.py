"""A launch: the steps by which a sandbox comes up and goes.

Every sandbox passes the same steps, whichever program starts it:

1. *prepare*: the record is found, the sandbox gets its name, and a private
   directory that its sockets will be in.  It holds a pending lease: a name that no
   other launch of the record can have.
2. *bind*: its first process exists and waits.  The kernel's facts about that
   process (pidfd, pid namespace; the CID or the socket of a machine) become the
   claim of the lease, and the sockets begin to exist.
3. *started*: the process may run.
4. *ended*: its pidfd says so, or the launcher does.  Streams are cut first, then
   the directory is removed.
5. *after a crash* of the broker: prepared sandboxes are still awaited, live ones are
   leased again, and the rest is removed.

A launcher of the first kind (the micro VM's) starts the process itself and passes steps
1 to 3 in ``open``.  A launcher of the second kind (``host.launches``) is called by the
program that starts it: a hook of a container runtime or of libvirt, or ``brokerctl run``.  ``tests/conformance/launchers`` holds
both to the steps.

The host runs launches; brokerctl only reads names of files by this, to find what a dead
broker left.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.files.replace_file import replace_file
from broker.helpers.process.identity import ProcessIdentity

SOCKETS = "s"
"""The directory of the sockets, inside a launch's own."""

_STATE_FILE = "launch.json"


class Prepared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A launch that waits for its first process, or has it; also its state file."""

    boot: str
    """The boot of the kernel for which ``leader`` is true."""
    id: str
    sandbox: str
    record: str
    directory: str
    """Its own directory; the sockets are in ``SOCKETS`` below it."""
    since: float
    """Seconds since 1970 when it was prepared."""
    ours: bool = False
    """Whether ``brokerctl run`` started it, so that ending it is ours to do."""
    namespaces_closed: bool = False
    """Whether Vitrail's launcher keeps its programs from making namespaces."""
    leader: ProcessIdentity | None = None
    """None: it is not bound yet."""
    carriers: list[ProcessIdentity] | None = None
    """What carries the frames of its network; None: others give it a network."""
    made: str = ""
    """The file of a record that was made for it, and is removed with it."""

    @property
    def sockets(self) -> Path:
        """The directory to be mounted into the sandbox, read-only."""
        return Path(self.directory, SOCKETS)


def write_state(state: Prepared) -> None:
    """Write a launch's state file, replacing it at once.  Raises OSError."""
    replace_file(Path(state.directory, _STATE_FILE), msgspec.json.encode(state))


def read_state(directory: Path) -> Prepared:
    """Read the state of a prepared launch from its directory.

    Raises UpstreamError when there is no such file, or it is not this directory's.
    """
    path = directory / _STATE_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise UpstreamError(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        data = file.read(limits.VM_STATE_BYTES + 1)
    try:
        state = msgspec.json.decode(data, type=Prepared)
    except (ValueError, RecursionError) as error:
        raise UpstreamError(f"cannot decode {path}: {error}") from error
    if state.directory != str(directory):
        raise UpstreamError(f"{path} is the state of another launch")
    return state

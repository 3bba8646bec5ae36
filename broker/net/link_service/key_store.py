"""The link's files: this broker's key, and the brokers that it accepts.

Both lie in ``link/`` of the state directory, mode 0600 in a directory of mode
0700, and are looked at for each handshake, so that a pairing or a ``brokerctl
link forget`` holds from the next one on.  An unchanged file is not read and
parsed again: eight bytes of a stranger are enough to make us look.

Host, viewer and brokerctl read them, and make the key if there is none; only brokerctl
adds and removes pinned brokers.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from broker.core.errors import SetupError
from broker.core.files.replace_file import whole_file
from broker.core.limits import link as limits
from broker.core.paths import Paths
from broker.net.link.keys import (
    KEY_BYTES,
    BrokerIdentity,
    Peers,
    PinnedPeer,
    parse_peers,
)

_PEM_BYTES = 4096
_SETTLED_NS = 100_000_000
"""A file that was changed so recently could change again within one tick of the
kernel's clock, and look the same."""
_T = TypeVar("_T")


class _Read(Generic[_T]):
    """The parsed value of a file, and the file's state at that time."""

    def __init__(self) -> None:
        self._facts: tuple[int, ...] = ()
        self._value: _T | None = None

    def get(
        self, path: Path, limit: int, parse: Callable[[bytes], _T], *also: int
    ) -> _T:
        """Return a file's parsed value.

        Parse again where the file, or ``also``, changed.
        """
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            facts = _private(path, fd)
            settled = time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns)
            now = (
                *(facts.st_dev, facts.st_ino, facts.st_size),
                *(facts.st_mtime_ns, facts.st_ctime_ns),
                *also,
            )
            if self._value is None or now != self._facts:
                value = parse(file.read(limit))
                self._facts = now if settled > _SETTLED_NS else ()
                self._value = value
            return self._value


class LinkStore:
    """The files of one broker."""

    def __init__(self, paths: Paths) -> None:
        self.directory = paths.state / "link"
        self.key_file = self.directory / "identity.pem"
        self.peers_file = self.directory / "peers"
        self._identity: _Read[BrokerIdentity] = _Read()
        self._peers: _Read[Peers] = _Read()

    def identity(self) -> BrokerIdentity:
        """Return this broker's key pair; create and store one when there is none.

        Raises SetupError when the file is damaged or others may read it.
        """
        with explained(self.key_file):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A confined viewer changes no mode: it was right when this was called first.
            if stat.S_IMODE(self.directory.stat().st_mode) != 0o700:
                self.directory.chmod(0o700)
            if not self.key_file.exists():
                fresh = BrokerIdentity.from_seed(secrets.token_bytes(KEY_BYTES))
                # The first one stays, of two brokers that start at once.
                with (
                    contextlib.suppress(FileExistsError),
                    whole_file(self.key_file, replace=False) as file,
                ):
                    file.write(fresh.to_pem())
            return self._identity.get(
                self.key_file,
                _PEM_BYTES,
                lambda pem: BrokerIdentity.from_pem(pem, str(self.key_file)),
            )

    def peers(self) -> Peers:
        """Read the pinned brokers, and this broker's key, which is created if absent.

        Raises SetupError with ``file:line``.
        """
        own = self.identity().public
        with explained(self.peers_file):
            if not self.peers_file.exists():
                return Peers()
            return self._peers.get(
                self.peers_file,
                limits.LINK_PEERS_BYTES + 1,
                lambda text: parse_peers(text, str(self.peers_file), own),
                int.from_bytes(own.raw),
            )

    def knows(self, peer: PinnedPeer) -> bool:
        """Return whether this very broker is pinned now.

        Not if the files are damaged.
        """
        try:
            return self.peers().find(peer.key.raw) == peer
        except SetupError:
            return False


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise a file's OSError as SetupError."""
    try:
        yield
    except OSError as error:
        raise SetupError(f"{error.strerror}", where=str(path)) from error


def _private(path: Path, fd: int) -> os.stat_result:
    """Return the status of a key file.

    Raises SetupError unless it is a regular file that only this user may access.
    """
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        raise SetupError("is not a regular file that you own", where=str(path))
    if facts.st_mode & 0o077:
        raise SetupError(
            "is readable or writable by others",
            where=str(path),
            hint=f"run 'chmod 600 {path}'; if others may have read the key, remove the file and pair the brokers again",
        )
    return facts

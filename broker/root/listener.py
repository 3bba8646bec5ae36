"""The socket that brokers of one user connect to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from broker.core.errors import SetupError
from broker.core.limits import devices as limits


def listen(path: Path, owner: int) -> socket.socket:
    """Create the socket that brokers of a user connect to.  Raises SetupError."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        # Whatever the umask is: the user must come through to the socket.
        path.parent.chmod(0o755)
    _must_be_ours(path.parent)
    # guard: a running service keeps its socket
    _must_be_dead(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        path.unlink(missing_ok=True)
        sock.bind(os.fspath(path))
        # Bound with the process's umask: no other user may connect in between.
        path.chmod(0o600)  # before it is the user's: CAP_FOWNER is not ours
        os.chown(path, owner, -1, follow_symlinks=False)
        sock.listen(limits.DEVICE_HELPER_CLIENTS)
    except OSError as error:
        sock.close()
        raise SetupError(f"cannot listen on {path}: {error.strerror}") from error
    sock.settimeout(0)
    return sock


def _must_be_dead(path: Path) -> None:
    """Refuse a path at which another program listens."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.settimeout(0)
            probe.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except BlockingIOError:
        pass  # its backlog is full
    except OSError as error:
        raise SetupError(f"cannot listen on {path}: {error.strerror}") from error
    raise SetupError(
        f"another program is listening on {path}",
        hint="stop that program; to see whether the service runs, run 'systemctl status vitrail-devices@USER'",
    )


def _must_be_ours(folder: Path) -> None:
    """Refuse a directory in which others can replace the socket.

    Between bind(2) and chown(2) they would put a link to another file in its place,
    and this process is root.
    """
    facts = folder.lstat()
    # guard: the socket's directory
    if facts.st_uid not in {0, os.geteuid()} or facts.st_mode & 0o022:
        raise SetupError(
            f"{folder} is writable by other users",
            hint=f"run 'chown root {folder}' and 'chmod 755 {folder}' as root",
        )

"""``vitrail-ssh-agent``: an ssh agent's socket, whose keys are in another sandbox.

Both ends carry bytes only: what programs ask of the agent is decoded by the broker's
workers, and the broker decides about each use of a key.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from shims.files.connection import BrokerConnection
from shims.files.doors import BOX_SOCKETS
from shims.files.ports import carry_bytes
from shims.files.protocol import TransferError, frame, tell

if TYPE_CHECKING:
    from typing import List

AGENT_SERVICE = "vitrail.SshAgent"
AGENTS_AT_ONCE = 16  # connections of one vitrail-ssh-agent
AGENT_USAGE = (
    "usage: vitrail-ssh-agent [--target SANDBOX] [--socket PATH] [COMMAND [ARGUMENT…]]"
)
BY_RULE = "vitrail-ssh-keys"
# Where a session has its agent, beside $SSH_AUTH_SOCK: below $XDG_RUNTIME_DIR.
AGENT_SOCKETS = (
    "ssh-agent.socket",
    "openssh_agent",
    "gcr/ssh",
    "keyring/ssh",
    "gnupg/S.gpg-agent.ssh",
)


def runtime_directory() -> str:
    """Return where this user's sockets are."""
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"


def by_rule_path() -> str:
    """Return the socket that this machine's agent listens at (``shims/guest``)."""
    return os.path.join(runtime_directory(), BY_RULE)


def own_agent() -> socket.socket:
    """Connect to the agent of this sandbox's user.  Raises TransferError without one."""
    named = os.environ.get("SSH_AUTH_SOCK")
    # guard: keys of another sandbox are not led on to a third one
    if named in (f"{BOX_SOCKETS}/{AGENT_SERVICE}", by_rule_path()):
        named = None
    usual = [os.path.join(runtime_directory(), name) for name in AGENT_SOCKETS]
    for path in [named] if named else usual:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            continue
        return sock
    raise TransferError("no ssh agent is running, or SSH_AUTH_SOCK is not its socket")


def serve_own_agent(connection: BrokerConnection, source: str) -> int:
    """Connect a call with this sandbox's agent; return at its end."""
    try:
        sock = own_agent()
    except TransferError as error:
        tell(f"vitrail: cannot offer ssh keys to {source}: {error}")
        return 1
    with sock:
        carry_bytes(connection, sock)
    return 0


def ssh_agent(words: List[str]) -> int:
    """Offer an agent's socket: ``vitrail-ssh-agent``, used as ssh-agent(1)."""
    target, path = "", os.path.join(runtime_directory(), "vitrail-ssh-agent")
    while words and words[0] in ("--target", "-t", "--socket", "-a") and len(words) > 1:
        if words[0] in ("--target", "-t"):
            target = words[1]
        else:
            path = words[1]
        words = words[2:]
    if words[:1] == ["--"]:
        words = words[1:]
    elif words and words[0].startswith("-"):
        raise TransferError(AGENT_USAGE)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(AGENTS_AT_ONCE)
    parent = os.getpid() if words else 0  # the command's; it may end at once
    if os.fork():
        if words:
            os.execvpe(words[0], words, dict(os.environ, SSH_AUTH_SOCK=path))
        print(f"SSH_AUTH_SOCK={path}; export SSH_AUTH_SOCK;")
        return 0
    os.setsid()
    with open(os.devnull, "r+b") as null:
        for fd in (0, 1, 2):  # whoever reads them would wait for this process
            os.dup2(null.fileno(), fd)
    serve_agent_socket(listener, path, target, parent)
    return 0


def ssh_keys(_words: List[str]) -> int:
    """``ssh-keys``: lead the program at standard input to the agent that a rule names."""
    with socket.socket(fileno=0) as sock:
        lead_to_agent("", sock)
    return 0


def serve_agent_socket(
    listener: socket.socket, path: str, target: str, parent: int
) -> None:
    """Serve programs that ask an agent, until ``parent`` ends (0: for ever)."""
    import threading

    places = threading.BoundedSemaphore(AGENTS_AT_ONCE)
    own = os.stat(path)
    listener.settimeout(1 if parent else None)
    while True:
        try:
            sock, _ = listener.accept()
        except socket.timeout:
            if os.getppid() != parent:
                # Not a socket that has taken its place: our inode is not another's yet.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(path), own):
                        os.unlink(path)
                return
            continue
        sock.settimeout(None)
        places.acquire()

        def one(sock: socket.socket = sock) -> None:
            with sock, contextlib.suppress(OSError):
                lead_to_agent(target, sock)
            places.release()

        threading.Thread(target=one, daemon=True).start()


def lead_to_agent(target: str, sock: socket.socket) -> None:
    """Connect a program with the ssh agent of a target, by a call."""
    try:
        connection = BrokerConnection("VITRAIL_CALL")
        ask = {"type": "call", "service": AGENT_SERVICE, "argument": ""}
        connection.send(frame(dict(ask, target=target)))
        connection.wait("go")
    except TransferError as error:
        tell(f"vitrail: cannot use ssh keys: {error}")
        return
    carry_bytes(connection, sock)
    connection.socket.close()

"""Calls: ``vitrail-call`` asks for a service of another sandbox, ``serve`` runs one.

Both frame the stream for each other (``frames``).  A plain ``vitrail-call`` is made by a
separate program (``caller``), which leaves to this one what needs more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING

from shims.files.asking import take_option
from shims.files.connection import BrokerConnection
from shims.files.frames import EXIT_BROKEN, CallStream
from shims.files.ports import PORT_SERVICE, serve_port
from shims.files.protocol import TransferError, frame, tell
from shims.files.services import SERVICE_ARGUMENT, SERVICE_NAME, find_service
from shims.files.ssh_agent import AGENT_SERVICE, serve_own_agent

if TYPE_CHECKING:
    import threading
    from io import BufferedReader
    from typing import Callable, Dict, List

EXIT_NOT_STARTED, EXIT_NOT_FOUND = 126, 127  # as of a shell
OWN_DESKTOP = "dom0"  # the user's, as Qubes has it
CALL_USAGE = "usage: vitrail-call [--target SANDBOX] SERVICE [ARGUMENT]"


def desktop_call(service: str, argument: str = "") -> Dict[str, str]:
    """Return the message that calls a service of the user's own desktop."""
    ask = {"type": "call", "service": service, "argument": argument}
    return dict(ask, target=OWN_DESKTOP)


def ask_call(words: List[str]) -> int:
    """``vitrail-call [--target SANDBOX] SERVICE [ARGUMENT]``."""
    target, words = take_option(words, "--target", "-t")
    if not words or words[0].startswith("-") or len(words) > 2:
        raise TransferError(CALL_USAGE)
    return call_service(target, words[0], words[1] if len(words) > 1 else "")


def _require_valid(service: str, argument: str) -> None:
    """Raise TransferError for a name or argument that no service has."""
    if not SERVICE_NAME.fullmatch(service):
        raise TransferError(
            f"invalid name of a service '{service}': it has up to 64 letters, digits "
            "and . _ -, and begins with a letter or digit"
        )
    if not SERVICE_ARGUMENT.fullmatch(argument):
        raise TransferError(
            f"invalid argument of a service '{argument}': it has up to 64 letters, "
            "digits and _ + . -, and does not begin with a hyphen"
        )


def call_service(
    target: str, service: str, argument: str, source: int = 0, sink: int = 1
) -> int:
    """Call a service with two descriptors as its input and output; returns its code."""
    try:
        _require_valid(service, argument)
        connection = BrokerConnection("VITRAIL_CALL")
        ask = {"type": "call", "service": service, "argument": argument}
        connection.send(frame(dict(ask, target=target)))
    except TransferError as error:
        error.code = EXIT_BROKEN
        raise
    return wait_and_carry(connection, source, sink)


def continue_call(connected: int, reader: BufferedReader) -> int:
    """Continue a call that ``caller`` has made, whose answer is still to be read."""
    connection = BrokerConnection("", socket.socket(fileno=connected))
    connection.reader = reader
    return wait_and_carry(connection)


def wait_and_carry(connection: BrokerConnection, source: int = 0, sink: int = 1) -> int:
    """Wait until a call is allowed, and carry its streams.

    Returns its exit code.
    """
    try:
        connection.wait("go")
    except TransferError as error:
        error.code = EXIT_BROKEN
        raise
    stream = CallStream(connection.socket, connection.reader)
    start_thread(lambda: stream.send_from(source))

    closing = [sink] if sink > 2 else []

    def ended() -> None:
        while closing:
            os.close(closing.pop())

    code = stream.receive_to(sink, ended)
    ended()
    connection.socket.close()
    if code is None:
        tell("vitrail: the broker closed the connection")
        return EXIT_BROKEN
    return code


def start_thread(work: Callable[[], None]) -> threading.Thread:
    """Run in a thread; the end of the connection shows in the other direction."""

    def run() -> None:
        # The far end has gone: the reader of the stream reports it.
        with contextlib.suppress(OSError):
            work()

    import threading

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def serve_call(words: List[str]) -> int:
    """Run the service that a call of another sandbox asks for: ``serve TOKEN …``.

    The guest's agent reads the other words: the user, and the service's full name.
    """
    connection = BrokerConnection("VITRAIL_CALL")
    connection.send(frame({"type": "take", "token": words[0]}))
    return serve(connection)


def serve_here(words: List[str]) -> int:
    """``serve-here DESCRIPTOR``: the same, on a connection that the broker has made."""
    given = socket.socket(fileno=int(words[0]))
    given.sendall(b"R")  # every mount of its jail is there
    return serve(BrokerConnection("", given))


def call_here(words: List[str]) -> int:
    """Run a service here for the user of the desktop: ``call-here '' USER …``.

    The user of the desktop calls it, with our standard streams.
    """
    name, _, argument = words[2].partition("+")
    argv = service_command(name, argument, words[4:])
    env = dict(os.environ, **call_environment(OWN_DESKTOP, name, argument))
    if words[3]:
        os.chdir(words[3])
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        tell(f"vitrail: {argv[0]}: {error.strerror}")
        return EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_STARTED


def service_command(name: str, argument: str, command: List[str]) -> List[str]:
    """Return the command of a service, by the record's or our own directories.

    Raises NoServiceError.
    """
    if command:
        return [*command, argument] if argument else command
    return find_service(name, argument)


def serve(connection: BrokerConnection) -> int:
    """Run the service that the next message names, on the stream after it."""
    asked = connection.wait("service")
    source, name = str(asked["source"]), str(asked["service"])
    argument = str(asked["argument"])
    if name == PORT_SERVICE:
        code = serve_port(connection, source, argument)
        connection.socket.close()
        return code
    if name == AGENT_SERVICE:
        code = serve_own_agent(connection, source)
        connection.socket.close()
        return code
    stream = CallStream(connection.socket, connection.reader)
    try:
        command = [str(word) for word in asked.get("command", [])]
        found = service_command(name, argument, command)
        env = dict(os.environ, **call_environment(source, name, argument))
        tell(f"vitrail: {source} called {name}: {' '.join(found)}")
        code = run_service(found, env, str(asked.get("directory") or ""), stream)
    except TransferError as error:
        tell(f"vitrail: {source} called {name}: {error}")
        code = error.code
    except OSError as error:
        tell(f"vitrail: {source} called {name}: {error.filename}: {error.strerror}")
        code = EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_STARTED
    stream.send_code(code)
    connection.socket.close()
    return code


def call_environment(source: str, name: str, argument: str) -> Dict[str, str]:
    """Return the caller and its request, as Qubes' services find them and by our names."""
    full = f"{name}+{argument}" if argument else name
    return {
        "VITRAIL_CALL_SOURCE": source,
        "VITRAIL_CALL_SERVICE": name,
        "VITRAIL_CALL_ARGUMENT": argument,
        "QREXEC_REMOTE_DOMAIN": source,
        "QREXEC_SERVICE_FULL_NAME": full,
        "QREXEC_SERVICE_ARGUMENT": argument,
        "QREXEC_REQUESTED_TARGET_TYPE": "",
    }


def run_service(
    argv: List[str], env: Dict[str, str], directory: str, stream: CallStream
) -> int:
    """Run a service on a stream; returns its exit code, as a shell has it.

    Raises OSError where it cannot be started.
    """
    wake, woken = os.pipe()
    import subprocess

    started: List[subprocess.Popen[bytes]] = []
    cut = False

    def end(*_: object) -> None:
        nonlocal cut
        cut = True
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)

    # The broker's, when the call is over though the service has not read all; it may
    # come while the service is being started.
    # guard: a service that does not read ends with its call
    signal.signal(signal.SIGTERM, end)
    with subprocess.Popen(
        argv,
        env=env,
        cwd=directory or None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise TransferError("the service has no standard streams")
        started.append(process)
        if cut:
            end()
        output = process.stdout.fileno()
        sender = start_thread(lambda: stream.send_from(output, wake))
        source = process.stdin

        def feed() -> None:
            # A call that breaks off ends its service.
            if stream.receive_to(source.fileno(), source.close) is None:
                end()

        start_thread(feed)
        code = process.wait()
        os.close(woken)
        sender.join()
    return code if code >= 0 else 128 - code


DESKTOP_VERBS = {"serve-here": serve_here}
"""A jailed service of the desktop has these commands alone."""

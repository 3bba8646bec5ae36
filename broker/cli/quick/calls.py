"""Calls of the control socket with the json module alone.

``control.blocking`` checks answers by msgspec, and its errors are read by that here,
too: but only where there is one.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, suppress

from broker.cli.quick.other_display import on_another_display
from broker.core.errors import (
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.paths import Paths
from broker.ipc.control.blocking_connection import (
    ANSWER_SECONDS,
    BrokerSilentError,
    Connection,
    open_connection,
)

_INTERFACE = "io.vitrail.Broker"


class ServiceCalls:
    """A connection to a broker of this user's; made by ``open_calls``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unanswered = False

    def begin(self, method: str, parameters: dict[str, object]) -> None:
        """Send a call whose answer is read later, by ``answer``."""
        if self._unanswered:
            with suppress(VitrailError):
                self.answer()
        call = {"method": f"{_INTERFACE}.{method}", "parameters": parameters}
        self._connection.send(json.dumps(call).encode(), ANSWER_SECONDS)
        self._unanswered = True

    def call(self, method: str, parameters: dict[str, object]) -> dict[str, object]:
        """Call a method and return its answer.

        Raises what the broker refuses with, or UpstreamError when it does not
        answer in time.
        """
        self.begin(method, parameters)
        return self.answer()

    def answer(self) -> dict[str, object]:
        """Wait for the answer of the call that ``begin`` sent; raises as ``call``."""
        self._unanswered = False
        message = self._connection.receive()
        try:
            reply = json.loads(message)
        except (ValueError, RecursionError) as error:
            raise _unreadable(error) from error
        parameters = reply.get("parameters", {}) if isinstance(reply, dict) else None
        if not isinstance(parameters, dict):
            raise _unreadable(TypeError("it is not an object"))
        if "error" in reply:
            # Late: msgspec and the tables of the interface.
            from broker.ipc.control.answers import error_of, reply_in

            raise error_of(reply_in(message))
        answer: dict[str, object] = parameters
        return answer


def _unreadable(error: Exception) -> UpstreamError:
    """Return the error of an answer that no broker of this version gives."""
    from broker.ipc.control.answers import unreadable_answer  # late, as above

    return unreadable_answer(error)


def open_calls(stack: ExitStack, paths: Paths) -> ServiceCalls | None:
    """Connect to a broker that runs as this user and answers.

    None: none exists, or others may put sockets into its directory.  Raises
    BrokerSilentError.
    """
    try:
        calls = ServiceCalls(stack.enter_context(open_connection(paths)))
        # A broker that is just ending, or that a service manager has yet to start.
        version = calls.call("GetVersion", {})
    except BrokerSilentError:
        raise  # the verb's long form would wait as long again
    except (OSError, SetupError, UpstreamError):
        return None
    if told := on_another_display(str(version.get("display", ""))):
        sys.stderr.write(f"{told}\n")
    return calls

"""Having a pump forked by the fork server of helpers.

The host and the viewer call it.
"""

from __future__ import annotations

from contextlib import ExitStack

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.helpers.process.fork_client import ForkServer, ForkServerProgram
from broker.helpers.pump.handle import PumpHandle, control_pair
from broker.ipc.captured_stderr import FirstWords
from broker.ipc.fork_server import FORK_PUMP, ForkPump, ForkServerKind

PUMPS = ForkServerProgram(
    ForkServerKind.HELPERS, "a pump", lambda: limits.FORK_SERVER_START_SECONDS
)


# A broker's pump is executed, not forked. A fork would have the broker's code and the
# session's variables in memory, and a process with an event loop and threads cannot
# safely fork itself, so a dead pump could not be replaced by another fork. The
# acceptor, a small process without an event loop, forks its pump. New streams wait up
# to five seconds for the replacement.
async def fork_pump(server: ForkServer) -> PumpHandle:
    """Have the fork server start a pump; return its handle.

    Raises UpstreamError, SetupError when the process cannot be started.
    """
    try:
        with ExitStack() as undo:
            ours, theirs = control_pair()
            undo.callback(ours.close)
            with theirs:
                words = FirstWords()
                undo.callback(words.close)
                child = await server.fork(
                    FORK_PUMP, ForkPump(), [theirs.fileno(), words.fd]
                )
            undo.pop_all()
    except OSError as error:
        raise UpstreamError(
            f"cannot get a descriptor for the relay's process: {error.strerror}",
            hint="raise the limit on open files ('ulimit -n')",
        ) from error
    return PumpHandle(ours, child.pid, child.fileno(), words, child.end)

"""Starting the pump as a program."""

from __future__ import annotations

import os
from contextlib import ExitStack

from broker.core.errors import SetupError
from broker.helpers.process.popen import our_program, start_process
from broker.helpers.pump.handle import PumpHandle, control_pair
from broker.ipc.captured_stderr import FirstWords

_VARIABLES = ("PATH", "VITRAIL_RELAY_PYTHON")


def start_pump_program() -> PumpHandle:
    """Start a pump, with nothing of this process but a socket.

    Raises SetupError when the process cannot be started.
    """
    try:
        with ExitStack() as undo:
            ours, theirs = control_pair()
            undo.callback(ours.close)
            # guard: a pump has no variables of the session
            env = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
            with theirs:
                words = FirstWords()
                undo.callback(words.close)
                # guard: a pump has no file of the broker's
                output = words.fd
                process = start_process(
                    our_program(
                        "broker.helpers.pump.process",
                        "--control-fd",
                        str(theirs.fileno()),
                    ),
                    env=env,
                    pass_fds=[theirs.fileno()],
                    stdout=output,
                    stderr=output,
                )
            undo.callback(process.wait)
            undo.callback(process.kill)
            handle = PumpHandle(ours, process.pid, os.pidfd_open(process.pid), words)
            process.returncode = 0  # its holder waits for it, by the pidfd
            undo.pop_all()
    except OSError as error:
        raise SetupError(
            f"the relay's process cannot be started: {error.strerror}",
            hint="raise the limit on processes ('ulimit -u')",
        ) from error
    return handle

"""The broker's words on the terminal that it was started from, written by one process.

A file of a terminal is open for reading, too: who has it as standard error can read what
the user types, stop all that others write, and send sequences that drive the terminal.
So a broker has a pipe in its place, and a process that parses nothing shows what comes.

``vitrail-local`` and ``vitrail-viewer`` fork that process before anything else.
"""

from __future__ import annotations

import codecs
import os
import signal
import sys

from broker.core.escape import displayed
from broker.helpers.process.process_name import set_name

_READ_BYTES = 1 << 14
_OUT, _ERR = 1, 2


def leave_terminal() -> None:
    """Detach this process, and those that it starts, from the terminal.

    Does nothing if standard output and error are not terminals.  Raises OSError.
    """
    terminals = [fd for fd in (_OUT, _ERR) if os.isatty(fd)]
    if not terminals:
        return
    read, write = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        _show(read, terminals[-1])
    os.close(read)
    for fd in terminals:
        # guard: a broker does not hold the terminal that it was started from
        os.dup2(write, fd)
    os.close(write)


def _show(read: int, terminal: int) -> None:
    """Copy the pipe to the terminal, escaped, until all writers have closed it.

    Never returns.
    """
    # Late: in this process alone.
    from broker.helpers.helper_confinement import confine_helper

    code = 1
    try:
        # The broker ends by such a signal, and says something then.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        os.dup2(terminal, _ERR)
        os.dup2(read, 0)
        os.closerange(_ERR + 1, os.sysconf("SC_OPEN_MAX"))
        set_name("vitrail-terminal")
        confine_helper()
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := os.read(0, _READ_BYTES):
            # guard: what a broker writes drives no terminal
            shown = displayed(decoder.decode(data)).encode()
            while shown:
                shown = shown[os.write(_ERR, shown) :]
        code = 0
    except BaseException:  # noqa: BLE001 -- reported, and the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)

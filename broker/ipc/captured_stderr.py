"""A bounded place for what a helper says on standard error.

A pipe would end a helper that outlives the broker (SIGPIPE) and a file would
let a guest fill the disk through its device's complaints.  A memfd that is
sealed against growing takes the first words and refuses the rest, which
each of our programs survives.

The host, the pump and session children make such files for programs that they start;
the process that sees the program end reads the words.
"""

from __future__ import annotations

import fcntl
import os

from broker.core import limits
from broker.core.escape import printable
from broker.core.stderr_log import log_stderr


class FirstWords:
    """Pass ``fd`` as standard error; the owner calls ``close``."""

    def __init__(self, size: int = limits.FIRST_WORDS_BYTES) -> None:
        self.fd = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.pwrite(self.fd, b"\0", size - 1)  # it is this large then
        seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        self._size = size

    def text(self, limit: int = 2000) -> str:
        """The end of the output, escaped for showing."""
        if self.fd < 0:
            return ""
        said = os.pread(self.fd, self._size, 0).rstrip(b"\0").strip()
        return printable(said[-limit:].replace(b"\n", b"; "), limit)

    def log(self, process: str) -> None:
        """Log the output of a process that has ended, and close."""
        if text := self.text():
            log_stderr(f"vitrail: {process} ended with: {text}")
        self.close()

    def close(self) -> None:
        """Give the memory back once the helper has ended too."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

"""The output of a sandbox's program, on our standard output or error."""

from __future__ import annotations

from typing import TextIO

from broker.core.escape import printable

_LINE_CHARS = 4096


def write_output(to: TextIO, untrusted_data: bytes) -> None:
    """Write output to a stream: escaped on a terminal, unchanged anywhere else."""
    if to.isatty():
        lines = untrusted_data.split(b"\n")
        to.write("\n".join(printable(line, _LINE_CHARS) for line in lines))
        to.flush()
    else:
        to.buffer.write(untrusted_data)
        to.buffer.flush()

"""A program in the place of a tool that hostile input has taken over: it tries all it can."""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """
import os, socket, sys
report, secret, outside, session = sys.argv[1:5]
got = []
try:
    got.append(open(secret).read())
except OSError:
    pass
try:
    open(outside, "w").close()
except OSError:
    pass
try:
    with socket.socket(socket.AF_UNIX) as there:
        there.connect("\\0" + session)
        got.append("session")
except OSError:
    pass
text = "+".join(got) or "nothing"
print(text)
try:
    open(report, "w").write(text)
except OSError:
    pass
"""


def taken_over(report: str, secret: Path, outside: Path, session: str) -> list[str]:
    """Return the command of a program that reads ``secret`` and writes ``outside``.

    It also connects to the abstract UNIX socket ``session``.  Its results, or
    "nothing", is printed and written to ``report``, a name in its working directory.
    """
    # The interpreter's own path: a .venv's is below the home that a jail hides.
    python = f"{sys.base_prefix}/bin/python3"
    return [python, "-c", _PROGRAM, report, str(secret), str(outside), session]

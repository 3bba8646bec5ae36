"""``python -I broker MODULE [ARG...]``: run one of our modules as a process.

Isolated mode (-I) ignores PYTHONPATH and the current directory, so that
neither decides what a trusted process imports; the program's own place, this
file's, is put in front instead, wherever it is installed.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

_WITHOUT_TLS = "broker.programs.authority"
"""This program imports trio first of all.  Others leave TLS out themselves."""

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    module = sys.argv.pop(1)
    if module == _WITHOUT_TLS:
        from broker.net.without_tls import leave_out_tls

        leave_out_tls()
    runpy.run_module(module, run_name="__main__", alter_sys=True)

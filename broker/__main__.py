"""``python -I broker MODULE [ARG...]``: run one of our modules as a process.

Isolated mode (-I) ignores PYTHONPATH and the current directory, so that
neither decides what a trusted process imports; the program's own place, this
file's, is put in front instead, wherever it is installed.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)

"""The fork server of helpers, whose keepers write down what they have loaded.

A keeper runs as always.  Before, it writes its pid and the names of its modules into
the file that VITRAIL_DEBUG names, the one variable that a fork server is given.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from broker.programs import fork_server, keeper
from tests.kit import keeper_forks  # noqa: F401 -- to any compositor


def _reporting(program: bytes, compositor: str) -> None:
    text = " ".join([str(os.getpid()), *sorted(sys.modules)])
    Path(os.environ["VITRAIL_DEBUG"]).write_text(f"{text}\n")
    _confine(program, compositor)


_confine, keeper.confine_keeper = keeper.confine_keeper, _reporting

if __name__ == "__main__":
    fork_server.main()

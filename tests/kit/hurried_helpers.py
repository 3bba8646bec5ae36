"""The fork server of helpers, whose starter gives a broker less long to end by itself."""

from __future__ import annotations

from broker.helpers import starter
from broker.programs import fork_server

starter._END_SECONDS = 1.0

if __name__ == "__main__":
    fork_server.main()

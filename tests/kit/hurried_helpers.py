"""The fork server of helpers, whose starter gives a broker less long to end by itself."""

from __future__ import annotations

from broker.helpers import starter
from broker.programs import helper_forks

starter._END_SECONDS = 1.0

if __name__ == "__main__":
    helper_forks.main()

"""Start the bridge."""

from __future__ import annotations

import sys

from shims.x11.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

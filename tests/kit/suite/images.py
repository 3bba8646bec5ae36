"""Make what tests start, before any deadline runs: the machines' image, the boxes' root.

At the same time, because both wait for a mirror half of the time.
"""

from __future__ import annotations

import subprocess
import sys


def main() -> int:
    """Make them; only the image has to be there at the end."""
    python = (sys.executable, "-m")
    with subprocess.Popen([*python, "tests.kit.toolbox"]) as box:
        image = subprocess.run(
            [*python, "broker.cli.app", "image", "build"], check=False
        )
        if box.wait():
            print("tests: the boxes have no root; their tests try to make it again")
    return image.returncode


if __name__ == "__main__":
    raise SystemExit(main())

"""The Debian package: built and checked in a fresh root, installed into another one.

There a new user reads its help, makes a record, sees a mistake in it and runs the demo
with a real machine; then the package is removed, and nothing of it is left.

A mirror that does not answer skips the test and names the line: the package does not
depend on it, and a change is not refused for it.  VITRAIL_DEB names a package that is
built already.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.core.paths import find_paths
from broker.helpers.process.spawn import run_tool
from tests.kit.needs import needs
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.world import the_image

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.timeout(900),
    needs("mmdebstrap", "mmdebstrap"),
]
FLAKES = re.compile(
    r"Temporary failure|Could not (?:resolve|connect)|Connection (?:failed|timed out|reset)"
    r"|Failed to fetch|Hash Sum mismatch|Read timed out|HTTP error 5"
)
"""What apt and pip write where a mirror is to blame."""


def _environment() -> dict[str, str]:
    """What a person's shell has: the tests' own Python settings would be seen inside."""
    wanted = {"PATH", "HOME", "LANG"}
    return {
        name: value
        for name, value in os.environ.items()
        if name in wanted or name.lower().endswith("_proxy")
    }


async def run(script: str, *words: str, log: Path, deadline: float, **env: str) -> str:
    """Run a script of .ci and return its output; skips where no mirror answered."""
    # Its errors are among thousands of lines of apt's and dpkg's, on both streams.
    shell = 'log=$1; shift; exec sh "$@" >"$log" 2>&1'
    try:
        await run_tool(
            ["sh", "-c", shell, "sh", str(log), str(ROOT / ".ci" / script), *words],
            env={**_environment(), "TMPDIR": "/var/tmp", **env},
            cwd=ROOT,
            deadline=deadline,
        )
    except UpstreamError as error:
        if "took longer than" in str(error):
            pytest.skip(f"a slow mirror or machine: {error}")
        flake = FLAKES.search(log.read_text(errors="replace"))
        if flake is not None:
            pytest.skip(f"a mirror of packages did not answer: {flake.group()}")
        raise
    finally:
        lines = log.read_text(errors="replace").splitlines()
        print(*lines[-60:], sep="\n")
    return "\n".join(lines)


async def test_it_is_built_installed_used_and_removed(tmp_path):
    ordinary_user()
    await the_image()  # which the demo boots; of this checkout, as the package is
    out = str(tmp_path)
    log = tmp_path / "log"
    package = os.environ.get("VITRAIL_DEB")
    if package is None:
        await run("deb", "bookworm", log=log, deadline=480, VITRAIL_OUT=out)
        (package,) = map(str, tmp_path.glob("vitrail_*~deb12_*.deb"))
    used = await run(
        *("try-deb", package, "bookworm"),
        log=log,
        deadline=360,
        VITRAIL_OUT=out,
        VITRAIL_CACHE=str(find_paths().cache),
    )
    assert "did you mean 'allow'?" in used
    assert "✓ show a window" in used
    assert re.search(r"demo-\d+ +demo +vitrail\.Display", used), "audit connections"
    assert used.rstrip().endswith("nothing of it is left")
    assert (tmp_path / "demo-from-package.png").stat().st_size > 1000

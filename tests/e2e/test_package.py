"""The Debian package: built, installed into a fresh system, used, removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.core.paths import find_paths
from broker.launch.process.spawn import run_tool
from tests.kit.world import the_image

_ROOT = Path(__file__).parents[2]
_SECONDS = 1500.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(2 * _SECONDS),
    pytest.mark.skipif(
        shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"
    ),
]


async def _script(name: str, *words: str, out: Path, **env: str) -> str:
    """Run a script of .ci; returns what it printed.  Skips where there is no archive."""
    given = {**os.environ, "VITRAIL_OUT": str(out), **env}
    try:
        said = await run_tool(
            [_ROOT / ".ci" / name, *words], env=given, cwd=_ROOT, deadline=_SECONDS
        )
    except UpstreamError as error:
        if "Temporary failure resolving" in error.message:
            pytest.skip("the package archive cannot be reached")
        raise
    print(said.decode())
    return said.decode()


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
async def test_it_is_installed_used_and_removed_without_a_trace(tmp_path, suite):
    """``VITRAIL_DEB_BOOKWORM=FILE``: a package that has been built already."""
    deb = os.environ.get(f"VITRAIL_DEB_{suite.upper()}")
    if deb is None:
        await _script("deb", suite, out=tmp_path)
        (built,) = tmp_path.glob("vitrail_*.deb")
        deb = str(built)
    await the_image()
    cache = find_paths().cache
    said = await _script("try-deb", deb, suite, out=tmp_path, VITRAIL_CACHE=str(cache))
    assert "brokerctl, version" in said
    assert "vitrail.Display" in said, "the demo's window, in the log"
    assert "nothing of it is left" in said
    assert (tmp_path / "demo-from-package.png").stat().st_size > 1000

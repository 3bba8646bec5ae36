"""A waypipe client whose jail never says that it stands."""

from __future__ import annotations

import os
import shutil

import pytest
import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.viewer.waypipe.client import start_waypipe_client

SILENT = """\
#!/bin/sh
echo $$ > "$(dirname "$0")/pid"
exec sleep 60
"""


@pytest.mark.skipif(shutil.which("waypipe") is None, reason="waypipe is missing")
async def test_a_jail_that_says_nothing_has_a_deadline(tmp_path, monkeypatch):
    """No other task waits for it: the stream that asked holds a lock and a place."""
    bwrap = tmp_path / "bin" / "bwrap"
    bwrap.parent.mkdir()
    bwrap.write_text(SILENT)
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bwrap.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(limits, "WAYPIPE_START_SECONDS", 0.5)
    display = tmp_path / "display"
    display.mkdir()
    with trio.fail_after(20), pytest.raises(UpstreamError, match="bubblewrap"):
        await start_waypipe_client(display)
    pid = int((bwrap.parent / "pid").read_text())
    assert not os.path.exists(f"/proc/{pid}")

"""A real systemd-journald of our own, in separate user and mount namespaces."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.spawn import Child, run_tool, spawn
from tests.kit.eventually import ready

_PROGRAM = "/lib/systemd/systemd-journald"

# It writes where it always does; there, our directories are mounted.
_SCRIPT = f"""
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
mount --bind "$1/socket" /run/systemd/journal
mount --bind "$1/log" /run/log/journal
mount -t tmpfs tmpfs /var/log
echo 0123456789abcdef0123456789abcdef > /run/id
mount --bind /run/id /etc/machine-id
exec {_PROGRAM}
"""


class Journal:
    """One that can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = str(directory / "socket" / "socket")
        self._child: Child | None = None
        for name in ("socket", "log"):
            (directory / name).mkdir()

    async def start(self) -> None:
        output = self._directory / "journald.log"
        with output.open("ab") as log:
            self._child = spawn(
                ["unshare", "-Urm", "sh", "-ec", _SCRIPT, "sh", self._directory],
                stdout=log.fileno(),
                stderr=log.fileno(),
            )
        await ready(self._child, Path(self.socket).exists, output=output)

    async def stop(self) -> None:
        assert self._child is not None
        with trio.CancelScope(shield=True):
            self._child.kill(signal.SIGTERM)
            await self._child.wait()
        Path(self.socket).unlink(missing_ok=True)

    async def entries(self, *words: str) -> list[dict]:
        """Return its entries from journalctl; a field that is not text is its bytes."""
        said = await run_tool(
            [
                "journalctl",
                "-D",
                self._directory / "log",
                "-o",
                "json",
                "--all",
                *words,
            ],
            output_limit=1 << 28,
        )
        return [json.loads(line) for line in said.splitlines()]

    async def aclose(self) -> None:
        if self._child is not None and self._child.returncode is None:
            await self.stop()


@asynccontextmanager
async def journald() -> AsyncIterator[Journal]:
    """A running one; where it cannot be had, the skip names the missing part."""
    if not Path(_PROGRAM).exists():
        pytest.skip(f"no {_PROGRAM}: apt-get install systemd")
    try:
        await run_tool(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/run"])
    except (SetupError, UpstreamError) as error:
        pytest.skip(f"no user and mount namespaces for journald: {error}")
    with TemporaryDirectory(prefix="vt-jd-", dir="/tmp") as name:
        journal = Journal(Path(name))
        try:
            await journal.start()
            yield journal
        finally:
            await journal.aclose()

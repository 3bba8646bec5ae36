"""The stage on which verbs that change or end something are compared with their effect."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from broker.ipc.control.api import LockdownRequest, Nothing
from broker.ipc.control.methods import FOLDERS, GRANT_LIST, LOCKDOWN
from tests.kit.brokerctl import Answer, brokerctl
from tests.kit.eventually import eventually
from tests.kit.own_command import Way
from tests.kit.world import World

_IGNORED = re.compile(
    r"^(state/vitrail/(audit|broker\.log|ship|logs/|policy/)|run/|root/|cache/"
    r"|state/vitrail/homes/\.locks/|data/applications/vitrail\.|data/icons/"
    r"|data/flatpak/|\.cache/|bus$"
    r"|folder/output|.*/\.(edit\.)?lock$)"
)
"""Files that brokers write at any time, and locks."""


@dataclass(frozen=True)
class State:
    """What a user can look at: sandboxes, files, shared folders, grants, the lockdown."""

    sandboxes: Mapping[str, str]
    files: Mapping[str, str]
    folders: tuple[str, ...]
    grants: tuple[str, ...]
    lockdown: tuple[bool, bool]

    def having(self, part: str) -> list[str]:
        """Return the paths of files that have this in their path."""
        return [path for path in self.files if part in path]


@dataclass
class Scene:
    """A sandbox of one kind, in a world; ``record`` is the name that verbs get."""

    w: World
    launcher: Way
    record: str
    name: str = ""
    """The running sandbox; empty if none runs."""
    last: str = ""
    """The newest sandbox."""
    folder: Path = field(default_factory=Path)
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def call(self, *argv: str) -> Answer:
        """Run brokerctl as a user does."""
        return await brokerctl(*argv, env=self.w.environ, deadline=300)

    async def ensure(self, *, runs: bool) -> None:
        """Start the sandbox, or stop it, if it is not as a verb needs it."""
        names = [row.name for row in (await self.w.status()).sandboxes]
        if self.name and self.name not in names:
            await self._ended()
        if runs and not self.name:
            await self._start(set(names))
        elif not runs and self.name:
            await self.w.stop(self.name, grace=5)
            await self._ended()

    async def _start(self, existing: set[str]) -> None:
        output = self.folder / "output"
        argv = ("sh", "-c", "echo began; sleep 1000")
        await self._running.enter_async_context(self.launcher.running(output, *argv))

        async def find_name() -> str | None:
            names = [row.name for row in (await self.w.status()).sandboxes]
            return next((name for name in names if name not in existing), None)

        self.name = self.last = await eventually(find_name, deadline=240)
        await eventually(lambda: "began" in output.read_text(), deadline=240)

    async def _ended(self) -> None:
        self.name = ""
        await self._running.aclose()
        self._running = AsyncExitStack()

    async def state(self) -> State:
        """Return what a user can look at now."""
        status = await self.w.status()
        async with self.w.client() as client:
            folders = (await client.call(FOLDERS, Nothing())).folders
            grants = (await client.call(GRANT_LIST, Nothing())).grants
            lockdown = await client.call(LOCKDOWN, LockdownRequest())
        return State(
            {row.name: row.state for row in status.sandboxes},
            files_below(self.w.base),
            tuple(f"{row.sandbox}:{row.path}" for row in folders),
            tuple(grant.id for grant in grants),
            (lockdown.locked, lockdown.networks),
        )


def files_below(base: Path) -> dict[str, str]:
    """Return a digest of each file that a user may look at, by its path.

    The disk of a machine, which writes to it at any time, has its inode instead.
    """
    digests = {}
    for path in sorted(base.rglob("*")):
        name = str(path.relative_to(base))
        if _IGNORED.match(name) or path.is_symlink() or not path.is_file():
            continue
        with suppress(OSError):
            if path.name == "disk":
                digests[name] = str(path.stat().st_ino)
                continue
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests

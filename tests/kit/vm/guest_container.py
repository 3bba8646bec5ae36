"""A container in which the guest package is installed, and its agent runs.

It has an /etc, a /usr/local and a /home, in one directory; the rest is this
machine's system, or the root of another suite, which it cannot change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.helpers.process.spawn import spawn
from broker.ipc import agent
from tests.kit.vm.agent_broker import AgentBroker

ADA = "ada:x:1000:1000::/home/ada:/bin/sh\n"
ROOT_LINE = "root:x:0:0:root:/root:/bin/sh\n"


@dataclass(frozen=True)
class GuestContainer:
    """``base`` is its directory; another suite's is to be below /tmp."""

    base: Path
    root: Path = Path("/")
    binds: tuple[str, ...] = ()
    """Further words of bubblewrap's."""

    def words(self, *, uid: int) -> list[str]:
        """Return the beginning of a command in it."""
        made = {name: self.base / name for name in ("etc", "local", "var", "home")}
        if not made["etc"].exists():
            self._make(made)
        # Another suite's root has no more than it needs.
        var = "/var/lib/systemd" if self.root == Path("/") else "/var/lib"
        return [
            *("bwrap", "--unshare-user", "--uid", str(uid), "--gid", str(uid)),
            *("--unshare-pid", "--die-with-parent", "--ro-bind", str(self.root), "/"),
            *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run", "--tmpfs", "/tmp"),
            *("--bind", str(made["etc"]), "/etc"),
            *("--bind", str(made["local"]), "/usr/local"),
            *("--bind", str(made["var"]), var, "--bind", str(made["home"]), "/home"),
            *("--bind", str(self.base), str(self.base), *self.binds),
            *("--setenv", "HOME", "/home/ada", "--"),
        ]

    def _make(self, made: dict[str, Path]) -> None:
        for directory in made.values():
            directory.mkdir(parents=True)
        (made["home"] / "ada/.cache").mkdir(parents=True)
        etc = made["etc"]
        (etc / "passwd").write_text(ROOT_LINE + ADA)
        for name in ("alternatives", "ld.so.cache", "ld.so.conf"):
            path = self.root / "etc" / name
            if path.is_dir():
                shutil.copytree(path, etc / name, symlinks=True)
            elif path.exists():
                shutil.copy(path, etc / name)

    def as_root(
        self, script: Path, *words: str, path: str = "/usr/bin:/bin"
    ) -> subprocess.CompletedProcess[str]:
        """Run the installer as its root."""
        copy = self.base / "vitrail-guest.sh"
        shutil.copy(script, copy)
        return subprocess.run(
            [*self.words(uid=0), "env", f"PATH={path}", "sh", str(copy), *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[AgentBroker]:
        """Run the installed agent as its user, started by its command."""
        broker = AgentBroker(self.base / "agent", self.base / "broker-display")
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "VITRAIL_AGENT": f"unix:{broker.path}",
            "VITRAIL_DISPLAY": f"unix:{broker.display_path}",
        }
        log = os.open(self.base / "log", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
        argv = [*self.words(uid=1000), "vitrail-guest"]
        child = spawn(argv, env=env, stdout=log, stderr=log)
        os.close(log)
        try:
            with trio.fail_after(120):
                yield broker
        finally:
            with trio.CancelScope(shield=True):
                await child.stop()
                await broker.close_all()
            print((self.base / "log").read_text())


async def output(broker: AgentBroker, *argv: str) -> tuple[str, int]:
    """Run a program by an agent to its end; returns its output, and its code."""
    await broker.run(*argv)
    started = await broker.receive(agent.AgentStarted)
    said, code = await broker.ended(started.program)
    return said.decode(), code

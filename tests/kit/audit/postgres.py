"""A PostgreSQL of our own: Debian's server, as this user, in our directory."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
import trio

from broker.helpers.process.spawn import Child, run_tool, spawn
from tests.kit.eventually import ready


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    return str(found[-1])


class Postgres:
    """A server that can be stopped, killed and started again."""

    def __init__(self, directory: Path, *, fsync: bool = False) -> None:
        self._directory, self._fsync = directory, fsync
        self._child: Child | None = None
        self._log = (directory / "server.log").open("ab")

    @property
    def address(self) -> str:
        return f"postgresql:///audit?host={self._directory}&user=owner"

    def as_role(self, role: str) -> str:
        return self.address.replace("user=owner", f"user={role}")

    async def start(self) -> None:
        self._child = spawn(
            [
                *(_program("postgres"), "-D", str(self._directory / "data")),
                *("-k", str(self._directory), "-h", ""),
                *(() if self._fsync else ("-F",)),
                *("-c", f"shared_buffers={'256MB' if self._fsync else '16MB'}"),
                *("-c", "max_connections=20"),
            ],
            stdout=self._log.fileno(),
            stderr=self._log.fileno(),
        )
        await ready(self._child, partial(trio.to_thread.run_sync, self._answers))

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.address.replace("/audit", "/postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    async def stop(self, how: int = signal.SIGQUIT) -> None:
        """As after a power cut: no connection is closed properly (SIGQUIT, "immediate")."""
        assert self._child is not None
        self._child.kill(how)
        with trio.CancelScope(shield=True):
            await self._child.wait()

    def rows(self, query: str, values: tuple = ()) -> list[tuple]:
        with psycopg.connect(self.address) as connection:
            return connection.execute(query, values).fetchall()

    def run(self, script: str, *, database: str = "audit") -> None:
        address = self.address.replace("/audit", f"/{database}")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(script)

    async def aclose(self) -> None:
        if self._child is not None and self._child.returncode is None:
            await self.stop()
        self._log.close()


_ROOM = 1 << 30
_template: list[TemporaryDirectory[str]] = []


def _new_directory() -> TemporaryDirectory[str]:
    """In memory where there is room: a data directory has a thousand files.

    Its name is short, for a socket must fit.
    """
    memory = "/dev/shm"
    room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM
    return TemporaryDirectory(prefix="vt-pg-", dir=memory if room else "/tmp")


async def _made() -> Path:
    """A data directory that none has used yet, made once for all tests.

    It has an empty database ``audit``.
    """
    if not _template:
        made = _new_directory()
        data = Path(made.name) / "data"
        await run_tool(
            [
                *(_program("initdb"), "-D", data, "-U", "owner"),
                *("-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"),
            ]
        )
        server = Postgres(Path(made.name))
        try:
            await server.start()
            server.run("CREATE DATABASE audit", database="postgres")
            await server.stop(signal.SIGINT)  # "fast": a copy has nothing to recover
        finally:
            await server.aclose()
        _template.append(made)
    return Path(_template[0].name) / "data"


@asynccontextmanager
async def postgres(*, fsync: bool = False) -> AsyncIterator[Postgres]:
    """A running one with an empty database ``audit``."""
    if os.geteuid() == 0:
        pytest.skip("PostgreSQL does not run as root")
    place = (
        TemporaryDirectory(prefix="vt-pg-", dir="/tmp") if fsync else _new_directory()
    )
    with place as name:
        data = Path(name) / "data"
        await run_tool(["cp", "-a", "--reflink=auto", await _made(), data])
        server = Postgres(Path(name), fsync=fsync)
        try:
            await server.start()
            yield server
        finally:
            await server.aclose()
            shutil.rmtree(data, ignore_errors=True)

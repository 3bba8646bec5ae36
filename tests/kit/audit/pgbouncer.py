"""Debian's PgBouncer in front of a test's PostgreSQL, one connection for a transaction."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
import trio

from broker.helpers.process.spawn import spawn
from tests.kit.audit.postgres import Postgres
from tests.kit.eventually import ready


@asynccontextmanager
async def pgbouncer(server: Postgres, *, pool: int = 2) -> AsyncIterator[str]:
    """Yield an address of the same database, by a pool of ``pool`` connections."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("no PgBouncer: apt-get install pgbouncer")
    with TemporaryDirectory(prefix="vt-pb-", dir="/tmp") as name:
        directory = Path(name)
        host = server.address.partition("host=")[2].partition("&")[0]
        (directory / "users").write_text('"owner" ""\n')
        (directory / "pgbouncer.ini").write_text(
            f"[databases]\naudit = host={host} dbname=audit user=owner\n[pgbouncer]\n"
            f"unix_socket_dir = {name}\nlisten_port = 6432\nauth_type = trust\n"
            f"auth_file = {name}/users\npool_mode = transaction\n"
            f"default_pool_size = {pool}\nmax_client_conn = 5000\n"
        )
        log = (directory / "log").open("wb")
        child = spawn(
            [program, str(directory / "pgbouncer.ini")],
            stdout=log.fileno(),
            stderr=log.fileno(),
        )
        address = f"postgresql:///audit?host={name}&port=6432&user=owner"

        def answers() -> bool:
            try:
                psycopg.connect(address, prepare_threshold=None).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            await ready(child, partial(trio.to_thread.run_sync, answers))
            yield address
        finally:
            await child.kill_and_wait()
            log.close()

"""Disks that are full, read-only or gone: what the setting says is what happens."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.cli.run.start import end_broker, ensure_broker
from broker.core.errors import VitrailError
from broker.helpers.process.spawn import run_tool
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.control.client import open_client
from tests.kit.audit.log import event
from tests.kit.brokerctl import brokerctl, paths_of

ROOT = Path(__file__).parents[2]

# A journal on a small separate file system, in a namespace where that can be
# mounted: the first request, and the state afterwards, as JSON.
_PROGRAM = """
import json, os, subprocess, sys, trio
from pathlib import Path
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.authority.audit.refusals import Refusals
from broker.authority.audit.settings import AuditMode
from broker.authority.audit.store import open_store
from broker.core.errors import UpstreamError
from broker.authority.audit.journal import Journal

folder, mode, how = Path(sys.argv[1]), AuditMode(sys.argv[2]), sys.argv[3]

def decision(number):
    return schema.Decision(
        verdict=schema.EventVerdict.ALLOW, stream=number, reason="x" * 2000
    )

async def main():
    said = {"allowed": 0, "denied": 0}
    async with open_store(folder / "audit.sqlite") as store:
        log = Journal(store, Refusals(store), mode=mode)
        await log.require(decision(0))
        if how == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", folder], check=False)
            # Its own open files keep it writable, as they would a disk: so the
            # database is told, as it would be told by a disk that fails.
            store._db.execute("PRAGMA query_only = 1")
        for number in range(1, 400):
            try:
                await log.require(decision(number))
                said["allowed"] += 1
            except UpstreamError as error:
                said["denied"] += 1
                said["error"] = error.message
        if how == "read-only":
            store._db.execute("PRAGMA query_only = 0")
        else:
            os.unlink(folder / "ballast")
        await log.require(schema.BrokerStop())
    with open_log(folder / "audit.sqlite") as found:
        kinds = [f.fields() for f in found.find(Filters())]
    said["recorded"] = sum(f["kind"] == "decision" for f in kinds) - 1
    said["gaps"] = [f["count"] for f in kinds if f["kind"] == "audit.gap"]
    print(json.dumps(said))

trio.run(main)
"""


async def on_small_disk(tmp_path: Path, mode: str, how: str) -> dict:
    mount = tmp_path / "small"
    mount.mkdir()
    (tmp_path / "program.py").write_text(_PROGRAM)
    script = (
        f"mount -t tmpfs -o size=1m,mode=700 none {mount} && "
        f"head -c 131072 /dev/zero > {mount}/ballast && "
        f"PYTHONPATH={ROOT} exec {sys.executable} {tmp_path}/program.py "
        f"{mount} {mode} {how}"
    )
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    return json.loads((await run_tool(argv)).decode().splitlines()[-1])


@pytest.mark.parametrize("how", ["full", "read-only"])
async def test_required_denies_an_event_that_it_cannot_record(
    tmp_path: Path, how: str
) -> None:
    said = await on_small_disk(tmp_path, "required", how)
    assert said["denied"] > 100
    assert said["allowed"] == said["recorded"]
    assert said["allowed"] + said["denied"] == 399
    assert "cannot write" in said["error"]
    assert said["gaps"] == [], "nothing happened that is not on record"


@pytest.mark.parametrize("how", ["full", "read-only"])
async def test_best_effort_allows_counts_and_tells(tmp_path: Path, how: str) -> None:
    said = await on_small_disk(tmp_path, "best-effort", how)
    assert (said["allowed"], said["denied"]) == (399, 0)
    assert sum(said["gaps"]) == 399 - said["recorded"] > 100


async def start(env: dict[str, str]) -> None:
    paths = paths_of(env)
    await ensure_broker(
        paths,
        environ=env,
        module="broker.programs.host",
        words=["--connect", f"unix:{paths.runtime}/link"],
    )


@pytest.mark.parametrize("mode", ["required", "best-effort"])
async def test_a_broker_whose_log_cannot_be_opened(env, mode: str) -> None:
    paths = paths_of(env)
    paths.config[0].mkdir(parents=True)
    (paths.config[0] / "audit.toml").write_text(f'mode = "{mode}"\n')
    # A directory in its place, as root's tests cannot use a mode of 0.
    paths.audit.mkdir(parents=True)
    if mode == "required":
        with pytest.raises(VitrailError, match="cannot open the audit log"):
            await start(env)
        return
    with trio.fail_after(60):
        await start(env)
        with open_log(paths.runtime / "audit.sqlite") as log:
            (gap,) = log.find(Filters(kinds=["audit.gap"]))
        assert "only in memory" in str(gap.fields()["reason"])
        async with open_client(paths.control) as client:
            await end_broker(client)
    assert "best-effort" in (paths.state / "broker.log").read_text()


async def test_gc_without_a_broker_and_with_one(env) -> None:
    paths = paths_of(env)
    async with open_store(paths.audit) as store:
        for _ in range(4):
            async with trio.open_nursery() as nursery:
                for number in range(256):
                    nursery.start_soon(store.record, event(number))
    assert (await brokerctl("audit", "gc", "--keep", "9d", env=env)).code == 0
    none = await brokerctl("audit", "gc", "--keep", "1h", "--json", env=env)
    assert none.objects == [{"removed": 0}]
    wrong = await brokerctl("audit", "gc", "--keep", "soon", env=env)
    assert wrong.code == 2
    # Two hours later: the events' own times are what counts.
    async with open_store(paths.audit) as store:
        assert await store.prune(before_ns=time.time_ns(), most=None) == 512
    await start(env)
    try:
        held = await brokerctl("audit", "gc", "--keep", "1h", "--json", env=env)
        assert held.objects == [{"removed": 0}]
        assert (await brokerctl("audit", "verify", env=env)).code == 0
    finally:
        async with open_client(paths.control) as client:
            await end_broker(client)
    assert (await brokerctl("audit", "verify", env=env)).code == 0

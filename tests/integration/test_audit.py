"""The audit log against what happens to real machines: kills, full disks."""

from __future__ import annotations

import os
import random
import shutil
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import PIPE, has_ended, run_tool, spawn
from broker.ipc.audit.query import open_log
from broker.ipc.audit.schema import (
    BrokerStart,
    Decision,
    EventVerdict,
    LeaseBegin,
    StreamClosed,
    StreamRefused,
)
from tests.kit.audit.log import opened, report
from tests.kit.brokerctl import brokerctl, lines_of, paths_of, running
from tests.kit.threads import no_threads

ROOT = Path(__file__).parents[2]

# Sixteen callers; each number is printed only after its event is durable.
_WRITER = """
import sys, time, trio
from pathlib import Path
from broker.ipc.audit.schema import LeaseEnd
from broker.authority.audit.store import open_store

async def caller(store):
    while True:
        number = await store.record(LeaseEnd(reason="x" * 200))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

async def sealer(store):
    # All that may be cut in the middle, much more often than it happens.
    while True:
        await store.checkpoint()
        await store.evolve()
        await store.prune(before_ns=time.time_ns(), most=1 << 20)

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sealer, store)
            for _ in range(16):
                nursery.start_soon(caller, store)

trio.run(main)
"""


async def _killed_writer(path: Path, after: int) -> int:
    """Kill a writer once it has told of ``after`` events; the highest told of."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-c", _WRITER, str(path)]
    child = spawn(argv, env=env, stdout=PIPE)
    told: list[int] = []
    with trio.fail_after(60):
        async with aclosing(lines_of(child)) as lines:
            async for line in lines:
                told.append(int(line))
                if len(told) == after:
                    child.kill()
        assert await child.wait() == -9
    assert child.popen.stdout is not None
    child.popen.stdout.close()
    return max(told)


async def _kills(path: Path, times: int, seed: int = 0) -> None:
    draw = random.Random(seed)
    highest = 0
    for _ in range(times):
        told = await _killed_writer(path, draw.randint(1, 400))
        assert told > highest
        with open_log(path) as log:
            assert log.check() == "ok"
        async with open_store(path) as store:  # as the next broker does
            # Everything told of is there, without a gap; perhaps a little more.
            assert store.size >= told
            await store.record(BrokerStart(software="", pid=1))
            highest = store.size
        with opened(path) as db:
            found = report(db, path)
        assert found.good, found.problems
        assert found.size == highest


async def test_reported_events_survive_kill_9(tmp_path: Path) -> None:
    await _kills(tmp_path / "audit.sqlite", 4)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
async def test_reported_events_survive_many_kills(tmp_path: Path, seed: int) -> None:
    """Two hundred in all."""
    await _kills(tmp_path / "audit.sqlite", 50, seed)


_FULL = """
import sys, os, trio
from pathlib import Path
from broker.ipc.audit.schema import LeaseEnd
from broker.authority.audit.store import open_store
from broker.core.errors import UpstreamError

async def main():
    folder = Path(sys.argv[1])
    async with open_store(folder / "audit.sqlite") as store:
        count = 0
        try:
            while True:
                await store.record(LeaseEnd(reason="x" * 4000))
                count += 1
        except UpstreamError as error:
            print("refused:", error.message)
            print(error.hint)
        assert count > 10, count
        for _ in range(3):
            try:
                await store.record(LeaseEnd(reason="x" * 4000))
                print("taken on a full disk")
            except UpstreamError:
                pass
        os.unlink(folder / "ballast")
        assert await store.record(LeaseEnd()) == count + 1
        print("room again:", store.statistics().failures)

trio.run(main)
"""


async def test_a_full_disk_denies_and_room_allows_again(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    script = (
        f"mount -t tmpfs -o size=1m,mode=700 none {mount} && "
        f"head -c 262144 /dev/zero > {mount}/ballast && "
        f"PYTHONPATH={ROOT} exec {sys.executable} -c '{_FULL}' {mount}"
    )
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    said = (await run_tool(argv)).decode()
    assert "refused: cannot write the audit log: database or disk is full" in said
    assert "is full or read-only" in said
    assert "taken on a full disk" not in said
    assert "room again: 4" in said


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
async def test_every_commit_is_flushed_before_it_is_told_of(tmp_path: Path) -> None:
    script = (
        "import sys, os, trio\n"
        "from pathlib import Path\n"
        "from broker.ipc.audit.schema import LeaseEnd\n"
        "from broker.authority.audit.store import open_store\n"
        "async def main():\n"
        "    async with open_store(Path(sys.argv[1])) as store:\n"
        "        for _ in range(5):\n"
        "            await store.record(LeaseEnd())\n"
        "            os.write(1, b'told')\n"
        "trio.run(main)\n"
    )
    trace = tmp_path / "trace"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = ["strace", "-f", "-y", "-e", "trace=fdatasync,fsync,write", "-o", str(trace)]
    path = tmp_path / "audit.sqlite"
    await run_tool([*argv, sys.executable, "-c", script, str(path)], env=env)
    flushed = 0
    told = 0
    for line in trace.read_text().splitlines():
        if "sync(" in line and "audit.sqlite-wal" in line:
            flushed += 1
        if '"told"' in line:
            told += 1
            assert flushed >= told
    assert told == 5


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
async def test_a_log_on_a_read_only_medium_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "state" / "audit.sqlite"
    async with open_store(path) as store:
        await store.record(BrokerStart(software="", pid=1))
    path.with_name("audit.sqlite.lock").unlink()
    path.parent.chmod(0o500)
    try:
        with open_log(path) as log:
            assert log.newest() == 1
        with pytest.raises(UpstreamError, match="cannot use the audit log"):
            async with open_store(path.parent / "deeper" / "audit.sqlite"):
                pass
    finally:
        path.parent.chmod(0o700)


# -- brokerctl audit --------------------------------------------------------------------


async def _fill(env: dict[str, str]) -> None:
    async with open_store(paths_of(env).audit) as store:
        await store.record(BrokerStart(software="0.1.0", pid=1))
        await store.record(LeaseBegin(sandbox="web", lease="aa", peer="cid 4"))
        await store.record(
            Decision(sandbox="web", verdict=EventVerdict.ALLOW, rule="/x/web.toml:2:1")
        )
        await store.record(StreamRefused(peer="cid 5\x1b[2J", reason="no lease\x07"))
        await store.record(
            StreamClosed(
                sandbox="web", bytes_from_sandbox=5, bytes_to_sandbox=0, seconds=1
            )
        )


async def test_asking_without_a_broker(env: dict[str, str]) -> None:
    await _fill(env)
    del env["XDG_RUNTIME_DIR"]
    answer = await brokerctl("audit", env=env)
    assert (answer.code, answer.err) == (0, "")
    assert len(answer.lines) == 5
    assert "no lease\\x07" in answer.lines[3]
    assert "\x1b" not in answer.out
    assert "\x07" not in answer.out
    web = await brokerctl("audit", "--sandbox", "web", "-n2", "--json", env=env)
    assert [event["kind"] for event in web.objects] == ["decision", "stream.closed"]
    assert web.objects[0]["rule"] == "/x/web.toml:2:1"
    assert web.objects[0]["time"].endswith("Z")
    kinds = await brokerctl("audit", "--kind", "stream", "--json", env=env)
    assert [event["sequence"] for event in kinds.objects] == [4, 5]
    # Hostile text is whole in JSON, where it is escaped.
    assert kinds.objects[0]["peer"] == "cid 5\x1b[2J"
    assert (await brokerctl("audit", "--since", "today", env=env)).code == 0


async def test_exit_codes(env: dict[str, str]) -> None:
    missing = await brokerctl("audit", env=env)
    assert missing.code == 1
    assert "no audit log yet" in missing.err
    await _fill(env)
    nothing = await brokerctl("audit", "--sandbox", "gone", env=env)
    assert (nothing.code, nothing.out) == (1, "")
    typo = await brokerctl("audit", "--kind", "steam", env=env)
    assert typo.code == 2
    assert "stream.closed" in typo.err
    never = await brokerctl("audit", "--since", "whenever", env=env)
    assert "is not a valid time" in never.err
    assert never.code == 2


async def test_following_shows_new_events(env: dict[str, str]) -> None:
    await _fill(env)
    async with (
        open_store(paths_of(env).audit) as store,
        running("audit", "-f", "--json", "--kind", "lease", env=env) as child,
    ):
        with trio.fail_after(60):
            async with aclosing(lines_of(child)) as lines:
                assert '"lease.begin"' in await anext(lines)
                await store.record(LeaseBegin(sandbox="mail", lease="bb"))
                assert '"mail"' in await anext(lines)
                assert not has_ended(child.pidfd)


async def test_a_reader_that_leaves_early_is_no_error(env: dict[str, str]) -> None:
    async with open_store(paths_of(env).audit) as store, trio.open_nursery() as nursery:
        for _ in range(3000):
            nursery.start_soon(store.record, LeaseBegin(sandbox="web", lease="x" * 60))
    async with running("audit", env=env) as child:
        with trio.fail_after(60):
            async with aclosing(lines_of(child)) as lines:
                await anext(lines)
            assert child.popen.stdout is not None
            child.popen.stdout.close()
            assert await child.wait() == 141
        assert child.popen.stderr is not None
        assert child.popen.stderr.read() == b""


async def test_no_room_for_a_thread_is_an_answer_for_all_who_wait(
    tmp_path: Path,
) -> None:
    """Not an error of one and silence for the others: ends of leases wait here."""
    refused = []
    async with open_store(tmp_path / "audit.sqlite") as store:

        async def caller() -> None:
            try:
                await store.record(BrokerStart(software="1", pid=1))
            except UpstreamError as error:
                refused.append(str(error))

        with no_threads(), trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(caller)
        assert len(refused) == 5
        assert "cannot start a thread" in refused[0]
        assert await store.record(BrokerStart(software="1", pid=1)) == 1

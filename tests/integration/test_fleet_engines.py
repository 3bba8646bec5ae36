"""Archives in other projects' engines, which run here: the recipes of docs/audit.md.

A collector (Rotel) takes what the product ships by OTLP and writes it into ClickHouse's
engine; object storage (SeaweedFS) keeps it under a lock.  Each recipe is the manual's
block of commands, as a shell runs it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.helpers.shipper.config import OtlpTarget
from broker.helpers.shipper.run import ship_once
from tests.kit.audit.engines import (
    ClickHouse,
    clickhouse,
    collector,
    free_ports,
    objects,
)
from tests.kit.audit.shipping import place, record
from tests.kit.brokerctl import Answer
from tests.kit.eventually import eventually

pytestmark = [pytest.mark.slow, pytest.mark.machine]

ROOT = Path(__file__).parents[2]


def recipe(beginning: str) -> str:
    """The manual's block of commands that begins so."""
    text = (ROOT / "docs/audit.md").read_text()
    (block,) = re.findall(
        rf"^    {re.escape(beginning)}.*\n(?:    .*\n)*", text, re.MULTILINE
    )
    return re.sub("^    ", "", block, flags=re.MULTILINE)


async def shell(script: str, directory: Path, env: Mapping[str, str]) -> Answer:
    """Run it as an administrator would."""
    done = await trio.run_process(
        ["bash", "-euo", "pipefail", "-c", script],
        env={
            "HOME": str(directory),
            "XDG_STATE_HOME": str(directory / "state"),
            **env,
            "PATH": f"{ROOT}:/usr/bin:/bin",
        },
        cwd=directory,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


async def shipped(directory: Path, endpoint: str) -> None:
    """Two machines record thirty events each with three checkpoints, and ship them."""
    for machine in ("one", "two"):
        async with open_store(directory / machine / "audit.sqlite") as store:
            for begin in (1, 11, 21):
                await record(store, begin, 10)
                await store.checkpoint()
        told: dict[str, object] = {}
        await ship_once(
            place(directory / machine, machine),
            [OtlpTarget("collector", endpoint)],
            told.__setitem__,
        )
        assert told == {"collector": 30}


async def kept(server: ClickHouse) -> None:
    """Wait until the collector has written all events and both last checkpoints."""
    sql = (
        "SELECT countIf(LogAttributes['vitrail.sequence'] != '') = 60 "
        "AND countIf(LogAttributes['vitrail.size'] = '30') >= 2 FROM otel_logs"
    )

    async def there() -> bool:
        return (await trio.to_thread.run_sync(server.ask, sql)).strip() == "1"

    await eventually(there)


async def test_collector_to_clickhouse(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with (
        clickhouse(tmp_path, port) as server,
        collector(tmp_path, server.url) as (endpoint, _),
    ):
        await shipped(tmp_path, endpoint)
        await kept(server)
        verify = recipe('curl -sS "$CLICKHOUSE" --data-binary \'SELECT')
        verify = verify.replace("verify", "verify --json")

        async def asked() -> Answer:
            return await shell(verify, tmp_path, {"CLICKHOUSE": server.url})

        answer = await asked()
        assert answer.code == 0, answer
        assert [
            (one["machine"], one["checked"], one["checkpoints"] >= 3, one["uncovered"])
            for one in answer.objects
        ] == [("one", 30, True, 0), ("two", 30, True, 0)]
        # A row that is changed in ClickHouse, and one that is removed.
        where = (
            "WHERE LogAttributes['vitrail.sequence'] = '7' SETTINGS mutations_sync=1"
        )
        for change in (
            f"UPDATE Body = replace(Body, 'vitrail', 'Vitrail') {where}",
            f"DELETE {where}",
        ):
            await trio.to_thread.run_sync(server.ask, f"ALTER TABLE otel_logs {change}")
            answer = await asked()
            assert answer.code == 3, (change, answer)


async def test_objects_with_a_lock(tmp_path: Path) -> None:
    """Who has the collector's keys changes an object: the version before stays."""
    (port,) = free_ports(1)
    async with (
        clickhouse(tmp_path, port) as server,
        collector(tmp_path, server.url) as (endpoint, _),
        objects(tmp_path) as client,
    ):
        await shipped(tmp_path, endpoint)
        await kept(server)
        day = time.strftime("%Y-%m-%d", time.gmtime())
        env = {**client, "CLICKHOUSE": server.url, "DAY": day}

        async def run(script: str, wanted: int = 0) -> Answer:
            answer = await shell(script, tmp_path, env)
            assert answer.code == wanted, (script, answer)
            return answer

        aws = 'aws --endpoint-url "$S3"'
        made = recipe(f"{aws} s3api create-bucket")
        # The port answers before the server can make a bucket.
        await eventually(lambda: bucket_made(made, tmp_path, env))
        await run(recipe('curl -sS "$CLICKHOUSE" --data-binary "SELECT'))
        shown = await run(f"{aws} s3api list-object-versions --bucket audit")
        (version,) = json.loads(shown.out)["Versions"]
        key = version["Key"]
        which = f"--bucket audit --key {key} --version-id {version['VersionId']}"
        answer = await run(f"{aws} s3api delete-object {which}", 254)
        assert "AccessDenied" in answer.err
        soon = '{"Mode": "GOVERNANCE", "RetainUntilDate": "2030-01-01T00:00:00Z"}'
        retention = f"{aws} s3api put-object-retention {which} --retention '{soon}'"
        assert "AccessDenied" in (await run(retention, 254)).err
        # Another version, and a mark of deletion over it.
        fetch = f"{aws} s3 cp s3://audit/{key} - | gunzip"
        # Not any "web": it may be part of a signature, too.
        edit = "sed 's/\"web/\"mail/'"
        await run(f"{fetch} | {edit} | gzip | {aws} s3 cp - s3://audit/{key}")
        newest = f"{aws} s3 sync s3://audit newest && brokerctl audit verify"
        await run(f"{newest} --store newest", 3)
        await run(f"{aws} s3 rm s3://audit/{key}")
        verify = recipe("mkdir -p archive").replace("verify", "verify --json")
        assert [
            (one["machine"], one["checked"], one["uncovered"])
            for one in (await run(verify)).objects
        ] == [("one", 30, 0), ("two", 30, 0)]


async def bucket_made(script: str, directory: Path, env: Mapping[str, str]) -> bool:
    return (await shell(script, directory, env)).code == 0

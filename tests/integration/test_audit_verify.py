"""brokerctl audit verify, prove and checkpoint, as a person uses them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

from broker.authority.audit.proof.keys import KeyFile
from broker.authority.audit.store import open_store
from broker.helpers.process.spawn import run_tool
from tests.kit.audit.log import event, fill
from tests.kit.brokerctl import brokerctl, paths_of

SHIM = Path(__file__).parents[2] / "shims" / "vitrail_audit_check.py"


async def test_a_log_is_verified_and_its_end_is_kept(env, tmp_path: Path) -> None:
    path = paths_of(env).audit
    await fill(path, 100)
    kept = tmp_path / "kept"
    printed = await brokerctl("audit", "checkpoint", env=env)
    kept.write_text(printed.out)
    async with open_store(path) as store:
        await store.record(event(100))
        # While a broker writes it, too.
        good = await brokerctl("audit", "verify", "--against", str(kept), env=env)
        assert (good.code, good.err) == (0, "")
        assert "events       101, 101 read" in good.out
        assert "the log is intact" in good.out
    every = await brokerctl("audit", "checkpoint", "--all", env=env)
    many = tmp_path / "many"
    many.write_text(every.out)
    found = await brokerctl(
        "audit", "verify", "--against", str(many), "--json", env=env
    )
    (report,) = found.objects
    assert report["good"] is True
    assert report["against"] >= 5
    assert report["size"] == 101

    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET sandbox = 'mail' WHERE sequence = 17")
    db.close()
    bad = await brokerctl("audit", "verify", env=env)
    assert bad.code == 3
    assert "WRONG        event 17: sandbox differs from the body" in bad.out
    assert "NOT intact" in bad.out


async def test_an_older_copy_is_found_against_a_checkpoint_only(
    env, tmp_path: Path
) -> None:
    path = paths_of(env).audit
    await fill(path, 50)
    shutil.copytree(path.parent, tmp_path / "older")
    async with open_store(path) as store:
        await store.record(event(50))
    kept = tmp_path / "kept"
    kept.write_text((await brokerctl("audit", "checkpoint", env=env)).out)
    words = ["audit", "verify", "--log", str(tmp_path / "older" / path.name)]
    assert (await brokerctl(*words, env=env)).code == 0
    found = await brokerctl(*words, "--against", str(kept), env=env)
    assert found.code == 3
    assert "the log contains 50" in found.out


async def test_a_copy_without_its_key(env, tmp_path: Path) -> None:
    path = paths_of(env).audit
    await fill(path, 20)
    copy = tmp_path / "copy.sqlite"
    shutil.copy(path, copy)
    words = ["audit", "verify", "--log", str(copy)]
    alone = await brokerctl(*words, env=env)
    assert alone.code == 3
    assert "the signing key is missing" in alone.out
    said = await brokerctl(*words, "--copy", env=env)
    assert said.code == 0
    assert "older copy" in said.out
    key = KeyFile(path).load()
    assert key is not None
    named = await brokerctl(*words, "--copy", "--origin", key.origin, env=env)
    assert named.code == 0
    other = await brokerctl(*words, "--copy", "--origin", "x", env=env)
    assert other.code == 3


async def test_a_proof_is_verified_by_the_shim_alone(env, tmp_path: Path) -> None:
    await fill(paths_of(env).audit, 100)
    proof = tmp_path / "proof.json"
    found = await brokerctl("audit", "prove", "42", env=env)
    assert found.code == 0
    proof.write_text(found.out)
    said = (await run_tool(["python3", "-I", "-S", str(SHIM), str(proof)])).decode()
    assert said.startswith("proved: event 42 of the 100 in vitrail.invalid/audit/")
    assert json.loads(said.splitlines()[1])["sequence"] == 42
    none = await brokerctl("audit", "prove", "101", env=env)
    assert none.code == 1
    assert "event 101 does not exist" in none.err


async def test_wrong_calls(env, tmp_path: Path) -> None:
    assert (await brokerctl("audit", "verify", env=env)).code == 1
    assert (await brokerctl("audit", "checkpoint", env=env)).code == 1
    await fill(paths_of(env).audit, 10)
    rubbish = tmp_path / "rubbish"
    for text in ("", "hello\n", "a\nb\nc\n\n\N{EM DASH} x y\n"):
        rubbish.write_text(text)
        found = await brokerctl("audit", "verify", "--against", str(rubbish), env=env)
        assert found.code == 2, text
    assert (await brokerctl("audit", "prove", "0", env=env)).code == 2
    peer = await brokerctl("audit", "checkpoint", "--peer", "desk", env=env)
    assert peer.code == 1


async def test_a_log_of_before_is_not_called_a_forgery(env) -> None:
    recorded = Path(__file__).parents[1] / "corpus" / "audit" / "v1.sqlite"
    path = paths_of(env).audit
    path.parent.mkdir(parents=True)
    shutil.copy(recorded, path)
    found = await brokerctl("audit", "verify", env=env)
    assert found.code == 1
    assert "is not sealed" in found.err
    async with open_store(path):
        pass
    assert (await brokerctl("audit", "verify", env=env)).code == 0


async def test_a_file_that_is_damaged_is_a_log_that_was_changed(env) -> None:
    path = paths_of(env).audit
    await fill(path, 200)
    raw = bytearray(path.read_bytes())
    for page in range(5, len(raw) // 4096):
        raw[page * 4096 + 8 : page * 4096 + 40] = b"\xff" * 32
    path.write_bytes(raw)
    found = await brokerctl("audit", "verify", env=env)
    assert found.code == 3, found

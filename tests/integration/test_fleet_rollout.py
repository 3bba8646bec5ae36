"""A bundle on its way to a fleet: asked before it is signed, returned where it hurts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from broker.authority.audit.store import Store, open_store
from broker.cli.policy.bundles.rollout import Denials
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
from broker.ipc.audit.schema import (
    Decision,
    EventVerdict,
    LeaseBegin,
    PolicyLoaded,
    PolicyRefused,
)
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import place
from tests.kit.brokerctl import Answer, called, home

RULES = {"what": "rules"}


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    async with postgres() as running:
        yield running


async def ship(server: Postgres, directory: Path, machine: str) -> None:
    told: dict[str, Any] = {}
    target = PostgresTarget("fleet", server.address)
    await ship_once(place(directory / machine, machine), [target], told.__setitem__)
    assert isinstance(told["fleet"], int), told


async def denied(store: Store, count: int) -> None:
    for _ in range(count):
        await store.record(
            Decision(
                sandbox="web",
                lease="aa",
                service="vitrail.OpenURL",
                verdict=EventVerdict.DENY,
                rule="30-site.policy:1",
            )
        )


def test_jump_is_many_times_the_usual_and_not_a_few() -> None:
    assert Denials("m", 0.5, 30, 10.0).jumped(4, 10)
    assert not Denials("m", 0.5, 20, 10.0).jumped(4, 10)
    assert not Denials("m", 0.5, 9, 0.0).jumped(4, 10)
    # Within the first hour the usual of an hour is expected.
    assert Denials("m", 0.0, 10, 24.0).jumped(4, 10)
    assert not Denials("m", 0.0, 10, 240.0).jumped(4, 10)


async def test_ring_returns_where_denials_jump_on_several_machines(
    tmp_path: Path, server: Postgres
) -> None:
    with home() as env:

        async def brokerctl(*words: str) -> Answer:
            return await trio.to_thread.run_sync(lambda: called(*words, env=env))

        key = str(tmp_path / "key")
        await brokerctl("policy", "bundle", "key", key)
        (tmp_path / "site/policy.d").mkdir(parents=True)
        for version in (1, 2):
            rule = f"# {version}\nvitrail.OpenURL * @anyvm @anyvm deny\n"
            (tmp_path / "site/policy.d/30-site.policy").write_text(rule)
            signed = await brokerctl(
                *("policy", "bundle", "sign", str(tmp_path / "site"), "--key", key),
                *("--name", "site", "--version", str(version)),
                *("-o", str(tmp_path / f"b{version}")),
            )
            assert signed.code == 0, signed.err
        index = str(tmp_path / "index")
        rings = ("--ring", f"canary={tmp_path}/b2", "--ring", f"all={tmp_path}/b1")
        made = await brokerctl(
            "policy", "bundle", "index", "--key", key, *rings, "-o", index
        )
        assert made.code == 0, made.err

        async def machine(name: str, version: int, denials: int) -> None:
            async with open_store(tmp_path / name / "audit.sqlite") as store:
                loaded = PolicyLoaded(
                    policy=f"{version}", bundle=f"site {version}", detail=RULES
                )
                await store.record(loaded)
                await store.record(PolicyLoaded(policy="of records"))
                await denied(store, denials)
            await ship(server, tmp_path, name)

        async def watch(*more: str) -> Answer:
            return await brokerctl(
                *("policy", "bundle", "watch", index, "--key", key),
                *("--store", server.address, "--json", *more),
            )

        before = Path(index).read_bytes()
        await machine("one", 2, 12)
        await machine("two", 2, 3)
        await machine("three", 1, 50)
        # One machine alone, whose sandbox may have asked for it.
        steady = await watch()
        assert steady.code == 0, steady.err
        assert steady.objects[0]["jumped"] == ["one"]
        assert steady.objects[0]["machines"] == 2
        assert Path(index).read_bytes() == before
        await machine("two", 2, 9)
        # It was in force before this start of its broker.
        jumped = await watch()
        assert jumped.code == 1, jumped.err
        assert jumped.objects[0]["jumped"] == ["one", "two"]
        assert jumped.objects[0]["back_to"] == 1
        assert Path(index).read_bytes() != before
        again = await watch()
        assert (again.code, again.objects[0]["machines"]) == (0, 0)
        told = await brokerctl(
            "audit", "fleet", "policies", "--json", "--store", server.address
        )
        assert [
            (one["bundle"], one["policy"], one["machines"]) for one in told.objects
        ] == [("site 2", "2", 2), ("site 1", "1", 1)]


async def test_new_rules_are_asked_about_all_machines(
    tmp_path: Path, server: Postgres
) -> None:
    """The same name is another sandbox on another machine."""
    for machine, record, sandbox in (
        ("one", "web", "app-1"),
        ("two", "mail", "app-1"),
        ("two", "mail", "app-2"),
    ):
        async with open_store(tmp_path / machine / "audit.sqlite") as store:
            await store.record(LeaseBegin(sandbox=sandbox, lease="l", record=record))
            await store.record(
                Decision(
                    sandbox=sandbox,
                    lease="l",
                    service="a",
                    target="work",
                    verdict=EventVerdict.ALLOW,
                    rule="30-site.policy:1",
                    detail={"asked": "work"},
                )
            )
            await store.record(PolicyRefused(problems=["x"]))
        await ship(server, tmp_path, machine)
    new = tmp_path / "new"
    (new / "policy.d").mkdir(parents=True)
    (new / "sandboxes.d").mkdir()
    (new / "policy.d/30-site.policy").write_text("a * @tag:mail work allow\n")
    for name, tags in (("web", "[]"), ("mail", '["mail"]'), ("work", "[]")):
        kind = "persistent" if name == "work" else "disposable"
        (new / f"sandboxes.d/{name}.toml").write_text(
            f'class = "{kind}"\ntags = {tags}\n'
        )
    with home() as env:

        async def simulate(*more: str) -> Answer:
            words = ("policy", "simulate", str(new), "--store", server.address)
            return await trio.to_thread.run_sync(
                lambda: called(*words, "--json", *more, env=env)
            )

        whole = await simulate()
        assert whole.code == 1, whole.err
        found = whole.objects[0]
        assert (found["changed"], found["same"]) == (1, 2), found
        (change,) = found["changes"]
        assert (change["source"], change["now"]) == ("app-1", "deny")
        two = await simulate("--machine", "two")
        assert (two.code, two.objects[0]["same"]) == (0, 2), two.objects

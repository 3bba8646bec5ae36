"""Rules are tried against the calls of a whole fleet before they are rolled out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
from broker.ipc.audit.schema import (
    Decision,
    EventVerdict,
    LeaseBegin,
    PolicyRefused,
)
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import place
from tests.kit.brokerctl import Answer, called, home


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    async with postgres() as running:
        yield running


async def ship(server: Postgres, directory: Path, machine: str) -> None:
    told: dict[str, Any] = {}
    target = PostgresTarget("fleet", server.address)
    await ship_once(place(directory / machine, machine), [target], told.__setitem__)
    assert isinstance(told["fleet"], int), told


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

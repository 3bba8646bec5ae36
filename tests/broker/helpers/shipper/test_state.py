"""What the broker and retention are told of shipping."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker.authority.audit.store import open_store
from broker.core.errors import SetupError
from broker.helpers.shipper.config import JsonlTarget
from broker.helpers.shipper.cursor import Cursor
from broker.helpers.shipper.run import ShipperPaths, ship_once
from broker.helpers.shipper.saved_cursor import save_cursor
from broker.helpers.shipper.service import load
from broker.helpers.shipper.state import shipping_warnings, unshipped
from tests.kit.audit.shipping import filled, record
from tests.kit.brokerctl import home, paths_of


def test_retention_and_status() -> None:
    with home() as env:
        paths = paths_of(env)
        assert unshipped(paths) is None
        assert shipping_warnings(paths) == []
        paths.config[0].mkdir(parents=True)
        paths.shipping.mkdir(parents=True)
        config = paths.config[0] / "ship.toml"
        config.write_text(
            "[[target]]\nname = 'a'\nto = 'journald'\n"
            "[[target]]\nname = 'b'\nto = 'journald'\n"
        )
        save_cursor(paths.shipping, Cursor(name="a", sequence=7))
        assert unshipped(paths) == Cursor(name="b")
        assert shipping_warnings(paths) == []
        recent = Cursor(name="b", sequence=9, problem="gone", since=time.time() - 5)
        save_cursor(paths.shipping, recent)
        assert shipping_warnings(paths) == []
        recent.since -= 600
        save_cursor(paths.shipping, recent)
        assert shipping_warnings(paths) == ["the audit log is not shipped to 'b': gone"]
        waiting = unshipped(paths)
        assert waiting is not None
        assert waiting.sequence == 7
        # What cannot be understood removes nothing.
        config.write_text("[[target]]\nname = 'a'\nto = 'moon'\n")
        assert unshipped(paths) == waiting
        with pytest.raises(SetupError):
            load(paths)  # as the shipper does, which notes why it cannot start
        assert "moon" in shipping_warnings(paths)[0]
        config.write_text("[[target]]\nnames = 'moon'\n")
        with pytest.raises(SetupError):
            unshipped(paths)
        assert "the audit log is not shipped" in shipping_warnings(paths)[0]
        config.write_text("[[target]]\nname = 'a'\nto = 'journald'\n")
        load(paths)
        assert shipping_warnings(paths) == []


async def test_retention_keeps_what_a_receiver_has_not_got() -> None:
    with home() as env:
        paths = paths_of(env)
        paths.config[0].mkdir(parents=True)
        (paths.config[0] / "ship.toml").write_text(
            f"[[target]]\nname = 'a'\nto = 'jsonl'\npath = '{env['HOME']}/a'\n"
        )
        place = ShipperPaths(paths.audit, paths.shipping, "m")
        target = JsonlTarget("a", f"{env['HOME']}/a")
        told: dict[str, object] = {}
        await filled(paths.state, 700)
        await ship_once(place, [target], told.__setitem__)
        async with open_store(paths.audit) as store:
            await record(store, 701, 1300)

            async def prune(most: int | None = None) -> int:
                waiting = unshipped(paths)
                assert waiting is not None
                return await store.prune(
                    before_ns=time.time_ns(), most=most, shipped=waiting.sequence
                )

            # Whole blocks of 256 that are shipped: 512 of the 700.
            assert await prune() == 512
            assert await prune() == 0
            await ship_once(place, [target], told.__setitem__)
            assert await prune() > 700
        assert told == {"a": 1301}  # with the event that said what was removed
        lines = (Path(env["HOME"]) / "a").read_text().splitlines()
        assert sum('"sequence"' in line for line in lines) == 2001


async def test_a_log_that_is_twice_too_large_goes_unshipped(tmp_path: Path) -> None:
    await filled(tmp_path, 4000)
    async with open_store(tmp_path / "audit.sqlite") as store:
        size = (tmp_path / "audit.sqlite").stat().st_size
        little = size * 2 // 3
        assert await store.prune(before_ns=None, most=little, shipped=0) == 0
        assert await store.prune(before_ns=None, most=size // 3, shipped=0) > 0


async def test_a_cursor_of_another_log_says_nothing_of_this_one() -> None:
    with home() as env:
        paths = paths_of(env)
        paths.config[0].mkdir(parents=True)
        (paths.config[0] / "ship.toml").write_text(
            "[[target]]\nname = 'a'\nto = 'journald'\n"
        )
        paths.shipping.mkdir(parents=True)
        save_cursor(paths.shipping, Cursor(name="a", sequence=700, log="ab" * 32))
        await filled(paths.state, 10)
        waiting = unshipped(paths)
        assert waiting is not None
        assert waiting.sequence == 0

"""What the broker and retention are told of shipping."""

from __future__ import annotations

import time

import pytest

from broker.audit.ship.cursor import Cursor, save_cursor
from broker.audit.ship.service import unshipped, warnings
from broker.core.errors import SetupError
from tests.kit.brokerctl import home, paths_of


def test_retention_and_status() -> None:
    with home() as env:
        paths = paths_of(env)
        assert unshipped(paths) is None
        assert warnings(paths) == []
        paths.config[0].mkdir(parents=True)
        paths.shipping.mkdir(parents=True)
        config = paths.config[0] / "ship.toml"
        config.write_text(
            "[[target]]\nname = 'a'\nto = 'journald'\n"
            "[[target]]\nname = 'b'\nto = 'journald'\n"
        )
        save_cursor(paths.shipping, Cursor(name="a", sequence=7))
        assert unshipped(paths) == Cursor(name="b")
        assert warnings(paths) == []
        recent = Cursor(name="b", sequence=9, problem="gone", since=time.time() - 5)
        save_cursor(paths.shipping, recent)
        assert warnings(paths) == []
        recent.since -= 600
        save_cursor(paths.shipping, recent)
        assert warnings(paths) == ["the audit log is not shipped to 'b': gone"]
        waiting = unshipped(paths)
        assert waiting is not None
        assert waiting.sequence == 7
        # What cannot be understood removes nothing.
        config.write_text("[[target]]\nname = 'a'\nto = 'moon'\n")
        with pytest.raises(SetupError):
            unshipped(paths)
        assert "moon" in warnings(paths)[0]

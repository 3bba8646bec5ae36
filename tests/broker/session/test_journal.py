"""The log as the roles use it, when it cannot be written."""

from __future__ import annotations

import os
import sys

import pytest

from broker.audit import schema
from broker.core.errors import UpstreamError
from tests.kit.roles import full_disk, journal


async def test_a_full_disk_takes_the_log_and_standard_error(tmp_path, monkeypatch):
    """What must be recorded first is refused; what has happened is not an error."""
    event = schema.BrokerStop(reason="asked to end")
    async with journal(tmp_path) as log:
        with full_disk() as full:
            monkeypatch.setattr(sys, "stderr", full)
            monkeypatch.setattr(log._store, "_write", _no_space)
            with pytest.raises(UpstreamError, match="No space left"):
                await log.require(event)
            await log.note(event)
            await log.note(event)
            monkeypatch.undo()
        await log.require(event)  # there is room again
        assert log._store.statistics().events == 1


def _no_space(events):
    raise OSError(28, os.strerror(28))

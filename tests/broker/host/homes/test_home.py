"""A home that cannot be opened is not locked afterwards."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from broker.core.errors import UpstreamError
from broker.core.names import SandboxName
from broker.host.homes.home import open_home
from broker.host.homes.store import HomeStore
from tests.kit.threads import no_threads

MAIL = SandboxName("mail")


async def test_a_home_for_which_there_is_no_thread_is_left_unlocked(tmp_path):
    homes = tmp_path / "homes"
    with (
        ExitStack() as held,
        no_threads(),
        pytest.raises(UpstreamError, match="cannot start a thread"),
    ):
        await open_home(homes, MAIL, frozenset(), 1 << 20, held)
    with HomeStore(homes).lock(MAIL):
        assert HomeStore(homes).find(MAIL) is None

"""The link's socket between two users, and what its status says."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from broker.cli.quick.status import link_line
from broker.net.addresses import UnixEndpoint
from broker.net.link_service import link_status
from broker.net.link_service.config import LinkConfig
from broker.net.listeners import open_listener


@pytest.mark.parametrize(
    ("uid", "mode"), [(-1, 0o600), (os.geteuid(), 0o600), (os.geteuid() + 1, 0o666)]
)
async def test_socket_is_open_to_another_user_only_where_one_is_named(
    tmp_path: Path, uid: int, mode: int
) -> None:
    config = LinkConfig(UnixEndpoint(tmp_path / "link"), peer_uid=uid)
    listener = await open_listener(config.endpoint, mode=config.mode)
    try:
        assert stat.S_IMODE((tmp_path / "link").stat().st_mode) == mode
    finally:
        listener.close()


def test_clocks_that_differ_are_a_warning_with_their_difference() -> None:
    now = int(time.time())
    clocks = link_status._clocks
    assert clocks(now) == []
    assert clocks(0) == [], "a release before does not say it"
    (ahead,) = clocks(now + 3600)
    assert "36" in ahead
    assert "ahead of" in ahead
    (behind,) = clocks(now - 60)
    assert "behind" in behind


def test_line_of_the_status_says_why_there_is_no_link() -> None:
    link = {"state": "waiting", "name": "", "problem": "pair again\x1b[31m"}
    line = link_line(link)
    assert line.startswith("link: waiting: pair again")
    assert "\x1b" not in line
    assert link_line({"state": "up", "name": "desk", "problem": ""}) == (
        "link: up with 'desk'"
    )

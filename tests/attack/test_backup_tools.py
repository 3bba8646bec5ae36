"""Programs that unpack a backup, after it took them over."""

from __future__ import annotations

import gzip
import socket

import pytest

from broker.cli.homes.backups import backup
from broker.core.errors import RefusedError, UpstreamError
from broker.core.names import SandboxName
from broker.host.homes.store import DISK, HomeStore
from tests.kit.needs import requires
from tests.kit.taken_over import taken_over

pytestmark = requires("bwrap")


class Opened:
    """A backup that needs no key."""

    secrets = ()

    @staticmethod
    def open_words(head):
        del head
        return ["cat"]


@pytest.mark.parametrize("name", ["_GZIP", "_TAR"])
async def test_taken_over_program_reads_no_home_and_writes_nothing_of_it(
    tmp_path, monkeypatch, name
):
    secret, outside = tmp_path / "key", tmp_path / "bashrc"
    secret.write_text("key")
    source = tmp_path / "backup"
    source.write_bytes(gzip.compress(b"hostile"))
    session = f"vitrail-test-{tmp_path.name}"
    monkeypatch.setattr(backup, name, taken_over("got", secret, outside, session))
    store = HomeStore(tmp_path / "homes")
    with store.new(DISK) as prepared, socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0" + session)
        listening.listen()
        with pytest.raises((RefusedError, UpstreamError)):
            await backup.unpack(source, prepared, Opened(), lambda _: None)
        got = prepared / "got"
        assert not got.exists() or got.read_text() == "nothing"
    assert not outside.exists()


async def test_name_of_the_program_that_failed_is_shown(tmp_path):
    source = tmp_path / "backup"
    source.write_bytes(b"not gzip")
    store = HomeStore(tmp_path / "homes")
    with (
        store.new(DISK) as prepared,
        pytest.raises(UpstreamError, match=r"^gzip failed"),
    ):
        await backup.unpack(source, prepared, Opened(), lambda _: None)
    assert store.find(SandboxName("x")) is None

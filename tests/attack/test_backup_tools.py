"""Programs that unpack a backup, after it took them over."""

from __future__ import annotations

import gzip
import shutil
import sys

import pytest

from broker.core.errors import RefusedError, UpstreamError
from broker.core.names import SandboxName
from broker.launch.state import backup
from broker.launch.state.store import DISK, HomeStore

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed"
)

TAKEN_OVER = """
import sys
secret, outside = sys.argv[1:3]
try:
    sys.stdout.write(open(secret).read())
    open("got", "w").write(open(secret).read())
except OSError:
    pass
try:
    open(outside, "w").close()
except OSError:
    pass
"""
"""What a program of the person's could do, in its place."""


class Opened:
    """A backup that needs no key."""

    @staticmethod
    def open_words(source):
        return ["cat", str(source)]


@pytest.mark.parametrize("name", ["_GZIP", "_TAR"])
async def test_taken_over_program_reads_no_home_and_writes_nothing_of_it(
    tmp_path, monkeypatch, name
):
    secret, outside = tmp_path / "key", tmp_path / "bashrc"
    secret.write_text("key")
    source = tmp_path / "backup"
    source.write_bytes(gzip.compress(b"hostile"))
    python = f"{sys.base_prefix}/bin/python3"
    monkeypatch.setattr(
        backup, name, (python, "-c", TAKEN_OVER, str(secret), str(outside))
    )
    store = HomeStore(tmp_path / "homes")
    with store.new(DISK) as prepared:
        with pytest.raises((RefusedError, UpstreamError)):
            await backup.unpack(source, prepared, Opened(), lambda _: None)
        assert not (prepared / "got").exists()
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

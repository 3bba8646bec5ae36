"""The program that reads an encrypted home's header, after that took it over."""

from __future__ import annotations

import socket

from broker.cli.homes import unlock
from tests.kit.needs import requires
from tests.kit.taken_over import taken_over

pytestmark = requires("bwrap")


async def test_it_reads_no_home_writes_nothing_and_reaches_no_session(
    tmp_path, monkeypatch
):
    secret, outside = tmp_path / "key", tmp_path / "bashrc"
    secret.write_text("key")
    disk = tmp_path / "disk"
    disk.write_bytes(b"LUKS")
    session = f"vitrail-test-{tmp_path.name}"
    printed = []
    run_tool = unlock.run_tool

    async def heard(argv, **kept):
        printed.append(await run_tool(argv, **kept))

    monkeypatch.setattr(unlock, "run_tool", heard)
    monkeypatch.setattr(unlock, "tool", lambda name: name)
    monkeypatch.setattr(unlock, "IO", taken_over("got", secret, outside, session))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0" + session)
        listening.listen()
        await unlock.opens(disk, b"a passphrase")
    assert printed == [b"nothing\n"]
    assert not outside.exists()
    assert disk.read_bytes() == b"LUKS"

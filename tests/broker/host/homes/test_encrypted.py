"""Encrypted homes: made, opened with their passphrase, and by nothing else."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
import trio

from broker.cli.homes import unlock
from broker.cli.homes.home_copies import HomeCopies
from broker.cli.homes.unlock import opens
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.host.homes import encrypted, keyring
from broker.host.homes.disk import LABEL, ready_disk
from broker.host.homes.encrypted import (
    LUKS_BYTES,
    make_encrypted_disk,
    pieces,
    ready_encrypted_disk,
    require_passphrase,
)
from broker.host.vmm.qemu_arguments import HomeDisk

SIZE = 32 << 20
PASSPHRASE = b"correct horse battery"

NAME = SandboxName("mail")


@pytest.fixture
def on_paper(monkeypatch):
    """Disks are made at once: QEMU measures this machine for seconds before."""

    async def make(path, size, _passphrase):
        await trio.lowlevel.checkpoint()
        path.write_bytes(b"LUKS")
        os.truncate(path, size + 4096)

    monkeypatch.setattr(encrypted, "make_encrypted_disk", make)


def plain_text(path, to):
    """The content of an encrypted disk, by QEMU's own tool."""
    key = encrypted.passphrase_pipe(PASSPHRASE)
    try:
        subprocess.run(
            [
                *("qemu-img", "convert", *encrypted.secret_args(key), "--image-opts"),
                *("-O", "raw", encrypted.image_options(path), str(to)),
            ],
            check=True,
            pass_fds=(key,),
        )
    finally:
        os.close(key)


@pytest.mark.long
async def test_it_is_an_empty_file_system_and_opens_with_its_passphrase(
    tmp_path, monkeypatch
):
    spoken = []
    run_tool = encrypted.run_tool

    async def heard(argv, **kept):
        spoken.extend(map(str, argv))
        return await run_tool(argv, **kept)

    monkeypatch.setattr(encrypted, "run_tool", heard)
    # A comma separates QEMU's options, and a quote is a quote.
    place = tmp_path / 'a,b "c'
    place.mkdir()
    disk = place / "disk"
    await make_encrypted_disk(disk, SIZE, PASSPHRASE)
    assert os.listdir(place) == ["disk"]
    assert disk.stat().st_mode & 0o777 == 0o600
    assert SIZE < disk.stat().st_size <= SIZE + LUKS_BYTES
    assert disk.stat().st_blocks * 512 < SIZE // 2, "it is sparse"
    data = disk.read_bytes()
    assert data.startswith(b"LUKS\xba\xbe")
    for known in (LABEL.encode(), PASSPHRASE, b"lost+found"):
        assert known not in data
    assert await opens(disk, PASSPHRASE)
    assert not await opens(disk, PASSPHRASE + b"x")
    assert any("qemu-io" in word for word in spoken)
    assert not any("horse" in word for word in spoken), "no command names it"
    os.truncate(disk, 2 * SIZE + LUKS_BYTES)
    plain_text(disk, tmp_path / "plain")
    assert (tmp_path / "plain").stat().st_size > 2 * SIZE, "and it grows"
    assert b"lost+found" in (tmp_path / "plain").read_bytes()
    subprocess.run(["/sbin/e2fsck", "-f", "-n", str(tmp_path / "plain")], check=True)


def test_a_passphrase_is_read_once_and_never_swapped_out():
    """A memfd is swapped out like any memory; QEMU keeps inherited descriptors."""
    fd = encrypted.passphrase_pipe(PASSPHRASE)
    name = Path(f"/proc/self/fd/{fd}")
    try:
        assert stat.S_ISFIFO(os.fstat(fd).st_mode)
        assert not os.get_inheritable(fd)
        assert name.read_bytes() == PASSPHRASE
        assert name.read_bytes() == b"", "and a QEMU that is taken over has no other"
    finally:
        os.close(fd)


async def test_a_failure_of_qemu_s_is_not_a_wrong_passphrase(tmp_path, monkeypatch):
    async def fails(*_words, **_kept):
        await trio.lowlevel.checkpoint()
        raise UpstreamError(f"qemu-io failed with code 1: {why}")

    monkeypatch.setattr(unlock, "run_tool", fails)
    monkeypatch.setattr(unlock, "tool", lambda name: name)
    why = "qemu-io: can't open: Invalid password, cannot unlock any keyslot"
    assert not await opens(tmp_path / "disk", PASSPHRASE)
    why = "qemu-io: can't open: Volume is not in LUKS format"
    with pytest.raises(UpstreamError, match="not in LUKS format"):
        await opens(tmp_path / "disk", PASSPHRASE)


def test_pieces_are_the_data_of_a_sparse_file(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(100 << 20)
        file.seek(50 << 20)
        file.write(b"x" * 8192)
        file.seek((100 << 20) - 4096)
        file.write(b"y" * 4096)
    found = list(pieces(path))
    assert sum(len(data) for _, data in found) <= 1 << 20
    whole = bytearray(100 << 20)
    for offset, data in found:
        whole[offset : offset + len(data)] = data
    assert bytes(whole) == path.read_bytes()


async def test_records_and_homes_agree_about_encryption(tmp_path, on_paper):
    store = HomeCopies(tmp_path / "homes")
    with store.lock(NAME):
        home = await ready_encrypted_disk(store, NAME, SIZE, PASSPHRASE)
        assert home.meta.encrypted
        with pytest.raises(SetupError, match="is encrypted, but its record"):
            await ready_disk(store, NAME, SIZE)
        grown = await ready_encrypted_disk(store, NAME, 2 * SIZE, PASSPHRASE)
        assert grown.size() == 2 * SIZE + LUKS_BYTES
        copy = store.clone(NAME, SandboxName("copy"))
        assert copy.meta.encrypted
        store.snapshot(NAME, SandboxName("before"))
        assert store.restore(NAME, SandboxName("before")).meta.encrypted
    other = SandboxName("other")
    with store.lock(other):
        await ready_disk(store, other, SIZE)
        with pytest.raises(SetupError, match="is not encrypted"):
            await ready_encrypted_disk(store, other, SIZE, PASSPHRASE)


def test_without_its_passphrase_it_is_locked(monkeypatch):
    monkeypatch.setattr(keyring, "read", lambda _name, **_path: None)
    with pytest.raises(RefusedError, match="is locked") as caught:
        require_passphrase(NAME)
    assert "sandbox unlock mail" in caught.value.hint


async def test_without_the_programs_it_says_which_package(tmp_path, monkeypatch):
    monkeypatch.setattr(encrypted.shutil, "which", lambda _name, **_path: None)
    with pytest.raises(SetupError) as caught:
        await make_encrypted_disk(tmp_path / "disk", SIZE, PASSPHRASE)
    assert "qemu-utils" in caught.value.hint


def test_a_home_is_plain_unless_it_has_a_key(tmp_path):
    assert HomeDisk(tmp_path, frozenset(), 3).key == -1


async def test_a_busy_machine_is_measured_again(tmp_path, monkeypatch):
    calls = []

    async def busy(argv, **_):
        await trio.lowlevel.checkpoint()
        calls.append(argv)
        if len(calls) < 3:
            raise UpstreamError("qemu-img failed: Unable to get accurate CPU usage")
        return b""

    monkeypatch.setattr(encrypted, "run_tool", busy)
    await encrypted._make_luks("qemu-img", tmp_path / "disk", SIZE, PASSPHRASE)
    assert len(calls) == 3

    async def broken(argv, **_):
        await trio.lowlevel.checkpoint()
        calls.append(argv)
        raise UpstreamError("qemu-img failed: no such option")

    monkeypatch.setattr(encrypted, "run_tool", broken)
    calls.clear()
    with pytest.raises(UpstreamError, match="option"):
        await encrypted._make_luks("qemu-img", tmp_path / "disk", SIZE, PASSPHRASE)
    assert len(calls) == 1

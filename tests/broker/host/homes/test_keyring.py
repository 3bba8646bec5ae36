"""The kernel's keyring of this user, as far as this machine gives us one."""

from __future__ import annotations

import os
import secrets

import pytest
import trio

from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.host.homes import keyring
from tests.kit.eventually import eventually


@pytest.fixture
def name():
    """A name that no other test has; its key is removed."""
    sandbox = SandboxName(f"t-{secrets.token_hex(6)}")
    try:
        assert keyring.read(sandbox) is None
    except SetupError as error:
        pytest.skip(f"needs the kernel's keyring: {error}")
    yield sandbox
    keyring.forget(sandbox)


def test_a_passphrase_is_kept_replaced_and_forgotten(name):
    keyring.store(name, b"first passphrase")
    assert keyring.read(name) == b"first passphrase"
    keyring.store(name, b"second\0passphrase\xff")
    assert keyring.read(name) == b"second\0passphrase\xff"
    assert keyring.forget(name)
    assert keyring.read(name) is None
    assert not keyring.forget(name)


def test_records_have_passphrases_of_their_own(name):
    keyring.store(name, b"first passphrase")
    assert keyring.read(SandboxName(f"{name}x")) is None


def test_the_longest_one_comes_back_whole(name):
    longest = os.urandom(keyring.PASSPHRASE_BYTES[-1])
    keyring.store(name, longest)
    assert keyring.read(name) == longest


async def test_the_kernel_drops_it_after_its_time(name):
    keyring.store(name, b"a passphrase", seconds=1)

    async def gone():
        return keyring.read(name) is None

    assert await eventually(gone, deadline=30)


async def test_other_threads_find_it(name):
    """A broker reads it in whichever thread starts a machine."""
    await trio.to_thread.run_sync(keyring.store, name, b"a passphrase")
    assert keyring.read(name) == b"a passphrase"
    assert await trio.to_thread.run_sync(keyring.read, name) == b"a passphrase"


def test_a_machine_without_a_keyring_says_so(name, monkeypatch):
    monkeypatch.setattr(keyring.platform, "machine", lambda: "vax")
    with pytest.raises(SetupError, match="vax"):
        keyring.read(name)

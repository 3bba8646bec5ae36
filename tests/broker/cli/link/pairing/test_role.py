"""One machine or one of two: link.toml says so, else whom it is paired with."""

from __future__ import annotations

import pytest

from broker.cli.link.pairing.pinned import pin
from broker.cli.link.pairing.role import role_here
from broker.core.errors import SetupError
from broker.net.link.keys import BrokerIdentity, PinnedPeer
from broker.net.link.wire_types import Role
from broker.net.link_service.key_store import LinkStore
from tests.kit.brokerctl import home, paths_of

OTHER = BrokerIdentity.from_seed(bytes(31) + b"1")
MORE = BrokerIdentity.from_seed(bytes(31) + b"2")


@pytest.fixture
def paths():
    with home() as env:
        yield paths_of(env)


def say(paths, text):
    paths.config[0].mkdir(parents=True)
    (paths.config[0] / "link.toml").write_text(text)


def test_a_machine_that_knows_of_no_other_is_the_only_one(paths):
    assert role_here(paths) is None
    assert not LinkStore(paths).directory.exists(), "no key is made for it"


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ('connect = "vsock:42:6499"', Role.HOST),
        ('listen = "vsock:any:6499"', Role.VIEWER),
        ("peer_cid = 2", Role.VIEWER),
        ("", Role.VIEWER),
    ],
)
def test_link_toml_says_which(paths, text, role):
    say(paths, text)
    assert role_here(paths) is role


@pytest.mark.parametrize("text", ["connect = 5", "role = 1", 'connect="a"\nlisten="b"'])
def test_a_damaged_one_decides_nothing(paths, text):
    say(paths, text)
    with pytest.raises(SetupError) as caught:
        role_here(paths)
    assert caught.value.where.endswith("link.toml")


@pytest.mark.parametrize("role", Role)
def test_without_a_role_file_the_paired_role_applies(paths, role):
    pin(LinkStore(paths), PinnedPeer("other", role.other, OTHER.public))
    assert role_here(paths) is role


def test_paired_as_both(paths):
    pin(LinkStore(paths), PinnedPeer("one", Role.HOST, OTHER.public))
    pin(LinkStore(paths), PinnedPeer("two", Role.VIEWER, MORE.public))
    with pytest.raises(SetupError, match="as a host and as a viewer"):
        role_here(paths)

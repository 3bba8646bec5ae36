"""Questions about a security key: what its process says is escaped."""

from __future__ import annotations

from broker.authority.decisions.put_question import texts_of
from broker.core.lease import Opening
from broker.core.services import SECURITY_KEY
from broker.ipc.session.key_uses import KeyUse
from broker.viewer.security_keys import security_keys
from tests.kit.link.roles import LEASE


def test_a_relying_party_is_shown_by_its_ascii_letters():
    """A process that was taken over could name one that looks like another."""
    said = KeyUse(ask=1, what="sign in", host="g\u0456thub.com\n")
    opening = Opening(LEASE, SECURITY_KEY, 1, "a test")
    words, _ = texts_of(security_keys._request(opening, said))
    assert words.startswith("to sign in to g\\u0456thub.com\\")
    assert words.isascii()
    assert words.isprintable()


def test_one_that_is_known_by_its_hash_says_so():
    said = KeyUse(ask=1, what="register", digest="ab" * 32)
    opening = Opening(LEASE, SECURITY_KEY, 1, "a test")
    words, _ = texts_of(security_keys._request(opening, said))
    assert words == (
        "to register at a service known only by its hash (abababababababab...) "
        "with your security key"
    )

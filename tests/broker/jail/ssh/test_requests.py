"""Requests to an ssh agent, byte by byte."""

from __future__ import annotations

import base64
import shutil
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import ssh_agent as wire
from broker.core.errors import PeerError
from broker.core.limits.ssh_agent import SSH_FRAME_BYTES, SSH_KEYS
from broker.core.ssh_agent import (
    AgentKey,
    BindSession,
    KeyDone,
    KeyList,
    KeyRefused,
    ListKeys,
    SignatureMade,
    SignContent,
    SignLogin,
    string,
)
from broker.jail.ssh.answers import encode_answer
from broker.jail.ssh.requests import NotPassedError, decode_request
from tests.kit.ssh import certified, made_key

KEY, HOST = b"key" * 10, b"host" * 10
LOGIN = SignLogin(KEY, 4, b"s" * 32, "git", "rsa-sha2-512")
BOUND = SignLogin(KEY, 0, b"s" * 32, "git", "ssh-ed25519", HOST)
CONTENT = SignContent(KEY, 0, "git", "sha512", b"d" * 64)
BIND = BindSession(HOST, b"s" * 32, b"signature", forwarding=True)
ALL = (ListKeys(), LOGIN, BOUND, CONTENT, BIND)


def body(ask):
    (found,) = wire.frames().feed(wire.request_frame(ask))
    return found


def sign(data, flags=0, key=KEY):
    tail = struct.pack(">I", flags)
    return bytes([wire.SIGN_REQUEST]) + string(key) + string(data) + tail


@pytest.mark.parametrize("ask", ALL)
def test_a_request_is_read_as_it_was_written(ask):
    assert decode_request(body(ask)) == ask


@pytest.mark.parametrize("ask", ALL)
def test_a_cut_or_longer_request_is_none(ask):
    whole = body(ask)
    for end in range(len(whole)):
        with pytest.raises((PeerError, NotPassedError)):
            decode_request(whole[:end])
    with pytest.raises((PeerError, NotPassedError)):
        decode_request(whole + b"\0")


@given(st.sampled_from(ALL[1:]), st.data())
def test_a_changed_request_signs_what_it_says(ask, data):
    whole = bytearray(body(ask))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = decode_request(bytes(whole))
    except (PeerError, NotPassedError):
        return
    # A byte for "true" may be any but zero, and is one when it is written again.
    assert read == decode_request(body(read))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"root",
        b"SSHSIG",
        b"x" * 300,
        wire.signed_data(LOGIN) + b"x",
        wire.signed_data(LOGIN)[:-1],
        wire.signed_data(LOGIN).replace(b"\x32", b"\x33"),
        wire.signed_data(LOGIN).replace(b"ssh-connection", b"ssh-CONNECTION"),
        wire.signed_data(LOGIN).replace(KEY, HOST[:30]),
        wire.signed_data(LOGIN).replace(b"\x01\0\0\0\x0c", b"\x02\0\0\0\x0c"),
        wire.signed_data(CONTENT) + b"x",
        wire.signed_data(CONTENT).replace(b"sha512", b"sha256"),
        wire.signed_data(CONTENT).replace(b"sha512", b"md5sum"),
        wire.CONTENT + string(b"git") + string(b"reserved") + string(b"sha256"),
        wire.signed_data(SignContent(KEY, 0, "a b", "sha256", b"d" * 32)),
        wire.signed_data(SignLogin(KEY, 0, b"s", "a\nb", "x")),
        wire.signed_data(SignLogin(KEY, 0, b"s" * 65, "a", "x")),
    ],
)
def test_other_data_is_not_signed(data):
    with pytest.raises(NotPassedError):
        decode_request(sign(data))


@pytest.mark.parametrize("flags", [1, 3, 8, 0xFFFFFFFF])
def test_other_flags_do_not_pass(flags):
    with pytest.raises(NotPassedError):
        decode_request(sign(wire.signed_data(LOGIN), flags))


@pytest.mark.parametrize("kind", sorted(set(range(256)) - {11, 13}))
def test_other_requests_do_not_pass(kind):
    """Keys are neither added nor removed nor locked (17 to 26)."""
    with pytest.raises(NotPassedError):
        decode_request(bytes([kind]) + string(b"query") + bytes(64))


@pytest.mark.parametrize("size", [0, SSH_FRAME_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_a_message_of_an_impossible_size_ends_the_connection(size):
    with pytest.raises(PeerError):
        wire.frames().feed(struct.pack(">I", size))


def test_a_message_of_the_largest_size():
    frame = string(bytes(SSH_FRAME_BYTES))
    frames = wire.frames()
    assert frames.feed(frame[:-1]) == []
    assert frames.feed(frame[-1:]) == [bytes(SSH_FRAME_BYTES)]


def test_answers_are_read_as_they_were_written():
    listed = KeyList((AgentKey(KEY, "me"), AgentKey(HOST, "")))
    for ask, answer in (
        (ListKeys(), listed),
        (LOGIN, SignatureMade(b"signature")),
        (BIND, KeyDone()),
        (LOGIN, KeyRefused()),
    ):
        (frame,) = wire.frames().feed(encode_answer(answer))
        assert wire.decode_answer(frame, ask) == answer
        if isinstance(answer, KeyList | SignatureMade):
            with pytest.raises(PeerError):
                wire.decode_answer(frame + b"x", ask)
            with pytest.raises(PeerError):
                wire.decode_answer(frame[:-1], ask)


def test_an_answer_to_another_question_is_a_no():
    (listed,) = wire.frames().feed(encode_answer(KeyList(())))
    assert wire.decode_answer(listed, LOGIN) == KeyRefused()
    assert wire.decode_answer(bytes([wire.SUCCESS]), LOGIN) == KeyRefused()


@pytest.mark.parametrize(("count", "good"), [(SSH_KEYS, True), (SSH_KEYS + 1, False)])
def test_keys_of_an_agent_are_few(count, good):
    (frame,) = wire.frames().feed(encode_answer(KeyList((AgentKey(b"k", ""),) * count)))
    if good:
        answer = wire.decode_answer(frame, ListKeys())
        assert isinstance(answer, KeyList)
        assert len(answer.keys) == count
        return
    with pytest.raises(PeerError):
        wire.decode_answer(frame, ListKeys())


# -- certificates ------------------------------------------------------------------------

CERTIFIED = b"ssh-ed25519-cert-v01@openssh.com"
CERTIFICATE = b"".join(map(string, (CERTIFIED, b"n" * 32, b"p" * 32))) + bytes(60)
CERTIFIED_KEY = string(b"ssh-ed25519") + string(b"p" * 32)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs openssh-client")
@pytest.mark.parametrize(
    "options",
    ["ed25519", "rsa", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521", "dsa"],
)
def test_a_certificate_has_the_fingerprint_of_its_key(tmp_path, options):
    """As ssh-add shows both."""
    authority = made_key(tmp_path / "authority", "authority")
    kind, *more = options.split()
    key = certified(made_key(tmp_path / "key", "me", kind, *more), authority, "me")
    plain, certificate = (
        base64.b64decode(Path(f"{key}{suffix}").read_text().split()[1])
        for suffix in (".pub", "-cert.pub")
    )
    assert wire.plain_key(certificate) == plain
    assert wire.fingerprint(certificate) == wire.fingerprint(plain)
    names = [wire.key_name(AgentKey(one, "me")) for one in (plain, certificate)]
    assert names[1] == f"{names[0]} (certificate)"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("sk-ssh-ed25519", 2), ("sk-ecdsa-sha2-nistp256", 3)],
)
def test_a_certificate_of_a_security_key(kind, fields):
    """PROTOCOL.u2f: the application's name is one of the key's fields."""
    own = [string(b"%d" % number) for number in range(fields)]
    name = f"{kind}-cert-v01@openssh.com".encode()
    made = string(name) + string(b"a random number") + b"".join(own) + bytes(30)
    plain = string(f"{kind}@openssh.com".encode()) + b"".join(own)
    assert wire.plain_key(made) == plain


@pytest.mark.parametrize(
    "key",
    [
        string(b"ssh-new-cert-v01@openssh.com") + bytes(60),
        string(b"ssh-ed25519-cert-v02@openssh.com") + bytes(60),
        string(CERTIFIED),
        string(CERTIFIED) + string(b"n") + b"\0\0\0\xff",
    ],
)
def test_a_certificate_whose_key_is_not_known_is_not_used(key):
    """A rule that denies its key could not name it."""
    listed = body_of_list(AgentKey(KEY, "plain"), AgentKey(key, "certificate"))
    assert wire.decode_answer(listed, ListKeys()) == KeyList((AgentKey(KEY, "plain"),))
    with pytest.raises(PeerError):
        wire.fingerprint(key)


def body_of_list(*keys):
    (found,) = wire.frames().feed(encode_answer(KeyList(keys)))
    return found


def test_a_login_by_a_certificate_names_it_and_not_its_key():
    """As ssh(1) asks: by the plain key, for data that have the certificate."""
    ask = SignLogin(CERTIFICATE, 0, b"s" * 32, "git", CERTIFIED.decode(), HOST)
    for key in (CERTIFICATE, CERTIFIED_KEY):
        assert decode_request(sign(wire.signed_data(ask), key=key)) == ask
    for key, named in ((KEY, CERTIFICATE), (CERTIFICATE, CERTIFIED_KEY), (KEY, HOST)):
        other = msgspec.structs.replace(ask, key=named)
        with pytest.raises(NotPassedError):
            decode_request(sign(wire.signed_data(other), key=key))

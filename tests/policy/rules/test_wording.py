"""What a user reads of a call: each service, and each of its forms."""

from __future__ import annotations

import re

import pytest

from broker.ipc.security_key import LOOK, REGISTER, SIGN_IN
from policy.records.device import DeviceFacts, take_interface
from policy.rules import wording as w
from policy.rules.engine import PolicyCall
from policy.rules.wording import is_known, key_words, wording

STICK = DeviceFacts("0951:1666", port="2-1", interfaces=(take_interface("08:06:50"),))


def words_of(service, argument="+", source="work", target="@adminvm", **more):
    told = {key: more.pop(key) for key in ("way", "about", "write") if key in more}
    return wording(PolicyCall(service, argument, source, target, **more), **told)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (("vitrail.AudioInput",), "to listen to your microphone"),
        (("vitrail.Print",), "to print"),
        (("vitrail.ScreenShare", "+own"), "to share one of its own windows"),
        (("vitrail.FileDialog", "+save"), "to save a file where you choose"),
        (("vitrail.FileDialog", "+x"), "to ask you to choose some of your files"),
        (("vitrail.Secret", "+bank"), "to read the secret bank"),
        (("vitrail.Tcp", "+80"), "to connect to port 80"),
        (
            ("vitrail.Tcp", "+80", "@adminvm", "work"),
            "to accept your connection to its port 80",
        ),
        (("vitrail.Call", "+pick+x", "work", "vault"), "to call the service pick"),
        (("my.Echo", "+x", "work", "vault"), "to call the service my.Echo"),
        (("vitrail.None",), "to call the service vitrail.None"),
        (("vitrail.SshAgent", "+list"), "to use an ssh key"),
        (
            ("vitrail.SshAgent", "+sign.git", "work", "vault"),
            "to sign data with an ssh key of vault",
        ),
    ],
)
def test_words_of_a_service(told, words):
    assert words_of(*told)[0] == words


@pytest.mark.parametrize(
    ("source", "target", "plain", "dragged"),
    [
        ("work", "vault", "to provide the data", "where you dropped it"),
        (
            "@adminvm",
            "work",
            "to receive the data that you copied",
            "to receive what you dragged",
        ),
        ("work", "@adminvm", "on your clipboard", "to your own programs"),
    ],
)
def test_where_content_goes(source, target, plain, dragged):
    paste = ("vitrail.ClipboardPaste", "+", source, target)
    assert plain in words_of(*paste)[0]
    assert dragged in words_of(*paste, way="drag")[0]


def test_lines_are_what_is_stated():
    assert words_of("vitrail.Device", "+2-1", device=STICK) == (
        "to use the USB device 0951:1666",
        [("number", "0951:1666"), ("port", "2-1"), ("interfaces", "08:06:50")],
    )
    url = {"scheme": "https", "host": "a.b", "about": "https://a.b/c"}
    assert words_of("vitrail.OpenURL", **url)[1] == [
        ("host", "a.b"),
        ("what", "https://a.b/c"),
    ]
    flow = {"protocol": "tcp", "port": 443}
    assert words_of("vitrail.Network", "+a.b", **flow)[1] == [
        ("protocol", "tcp"),
        ("port", "443"),
    ]
    login = words_of("vitrail.SshAgent", "+login.git", key="SHA256:k me")
    assert login[1] == [("key", "SHA256:k me"), ("user", "git"), ("host", "not known")]


def test_a_security_key_is_used_at_a_host_or_a_hash():
    key = ("vitrail.SecurityKey", "+")
    assert words_of(*key, way="look", host="bank.example") == (
        "to check whether your security key is registered at bank.example",
        [("relying party", "bank.example")],
    )
    words, lines = words_of(*key, way="register", about="ab" * 32)
    known = "a service known only by its hash (abababababababab...)"
    assert words == f"to register at {known} with your security key"
    assert lines == [("relying party", known)]
    # The one of a permit ahead of uses is a sample.
    assert words_of(*key, way="pin", host="a-name.invalid")[1] == []
    for way in (LOOK, REGISTER, SIGN_IN):
        assert is_known(key[0], way, ())
        assert key_words(way, "a.b", "") == words_of(*key, way=way, host="a.b")[0]


def test_each_row_has_parts_and_titles_that_there_are():
    known = {"name", "about", "called", "number", "party"}
    titles = {
        *("host", "what", "folder", "number", "port", "interfaces", "relying party"),
        *("key", "user", "host key", "signed for", "image", "none"),
    }
    for form, row in w._WORDS.items():
        words, _, named = row.partition(" | ")
        assert set(re.findall(r"\{(\w*)\}", words)) <= known, form
        assert set(filter(None, named.split(", "))) <= titles, form


def test_no_claim_has_the_title_of_a_line():
    lines = {
        t for row in w._WORDS.values() for t in row.partition(" | ")[2].split(", ")
    }
    lines |= {*w._STATED.split(", ")}
    for service, (ways, claims) in w._TOLD.items():
        assert claims & lines <= {"what"}, service
        assert not ways & {w.CHOICE}

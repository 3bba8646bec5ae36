"""A viewer that was taken over asks the user for one thing in the words of another.

It sends requests to the authority, and the user's yes permits what the request is for:
so the authority writes what the user reads, of the fields that the permit binds.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import trio

from broker.authority.decisions.put_question import texts_of
from broker.authority.decisions.question_control import _grant
from broker.authority.permit import Request
from broker.core.errors import RefusedError
from broker.core.question import Keep
from broker.helpers.prompt.dialog import LINE_CHARACTERS, keep_words, text_rows
from broker.ipc import authority as m
from broker.ipc.session.permit_warrant import PermitWarrant
from broker.ipc.session.warrant import SIGNATURE_BYTES
from broker.viewer.authority.request_messages import asked_of
from broker.wire.call_messages import ErrorMessage
from policy.records.device import DeviceFacts
from policy.rules.wording import CLAIMS
from tests.attack.test_forged_authority_messages import ends
from tests.attack.test_question_texts import question_for
from tests.kit.authority import SentMessage, call, hostile
from tests.kit.rulebook import VAULT, WORK, no, yes

SSH = {"service": "vitrail.SshAgent", "argument": "+login.root", "key": "SHA256:k me"}
PASTE = {"service": "vitrail.ClipboardPaste", "target": "vault", "mime": "text/plain"}
STICK, KEYBOARD = DeviceFacts("0781:5581", port="1-1"), DeviceFacts("046d:c31c")


def ask(number, *, covered=0, lease=WORK, **fields):
    asked = asked_of(Request(lease=lease, **fields))
    return call(number, m.PERMIT, m.AskPermit(asked, covered=covered))


def choice(*requests):
    return call(
        2, m.CHOOSE, m.ChoiceRequest([asked_of(Request(**one)) for one in requests])
    )


async def asked_about(**fields):
    """The question that the user reads."""
    rule = f"{fields['service']} * * * ask\n"
    async with hostile(rule) as (made, client):
        await client.announce(WORK)
        made.person.says = no
        await client.say(ask(2, **fields))
        await client.hear(ErrorMessage)
        (question,) = made.person.asked
        return question


@pytest.mark.parametrize(
    "told",
    [
        {"way": "drag"},
        {"way": "to provide the data that you copied in it"},
        {"claims": (("type", "text/plain"),)},
        {"claims": (("host", "git.example"),)},
        {"claims": (("by way of: git.example", "x"),)},
        {"claims": (("by way of", "x"),) * (CLAIMS + 1)},
    ],
)
async def test_an_ssh_key_in_the_words_of_a_paste(told):
    async with hostile("vitrail.SshAgent * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        await client.say(ask(2, **SSH, **told))
        await ends(made, "its request has a wording")
        assert made.person.asked == []


async def test_the_longest_claims_of_a_service_are_taken():
    claims = (("by way of", "x"),) * CLAIMS
    question = await asked_about(**SSH, claims=claims)
    assert question.details[-CLAIMS:] == (("by way of, it says", "x"),) * CLAIMS


@pytest.mark.parametrize("way", ["choice", "own", "login", "in"])
async def test_a_form_that_the_authority_tells_apart_is_no_way(way):
    for fields in (SSH, PASTE, {"service": "vitrail.Device", "device": STICK}):
        async with hostile() as (made, client):
            await client.announce(WORK)
            await client.say(ask(2, **{**fields, "way": way}))
            await ends(made, "its request has a wording")


async def test_the_user_reads_what_the_permit_is_for():
    question = await asked_about(**SSH, host="git.example", about="SHA256:h")
    assert question.words == "to log in with an ssh key"
    assert question.details == (
        ("key", "SHA256:k me"),
        ("user", "root"),
        ("host", "git.example"),
        ("host key", "SHA256:h"),
    )
    pasted = await asked_about(**PASTE)
    assert pasted.words == "to provide the data that you copied in it"
    stick = await asked_about(service="vitrail.Device", device=STICK)
    assert stick.words == "to use the USB device 0781:5581"
    changed = await asked_about(
        service="vitrail.Folder", about="/home/me/a", write=True
    )
    assert changed.words == "to read and change one of your folders"
    assert changed.details == (("folder", "/home/me/a"),)


async def test_what_the_user_has_read_is_in_the_warrant():
    rule = "vitrail.Print * * @adminvm ask\n"
    async with hostile(rule) as (made, client):
        await client.announce(WORK)
        made.person.says = yes()
        await client.say(ask(2, service="vitrail.Print", about="Office"))
        signed = (await client.hear(m.Permitted)).warrant
        warrant = msgspec.json.decode(signed[SIGNATURE_BYTES:], type=PermitWarrant)
        assert made.person.asked[0].words == f"to print on {warrant.about}"


@pytest.mark.parametrize(
    "text", ["x\nhost: bank.example", "x\r\u2028key: none", "host: bank.example"]
)
async def test_a_claim_that_imitates_a_line_of_the_authority(text):
    """It is marked, in one line, and after those."""
    question = await asked_about(
        **SSH, host="evil.example", claims=(("by way of", text),)
    )
    rows = [row for row, _ in text_rows(question)]
    known = [row for row in rows if row.startswith(("host:", "key:"))]
    assert known == ["key: SHA256:k me", "host: evil.example"]
    assert rows[-1].startswith("by way of, it says: ")


@pytest.mark.parametrize("blanks", [" ", ""])
def test_a_long_claim_begins_no_row_that_looks_like_a_line(blanks):
    title = "what, it says: "
    claims = (("what", "x" * (LINE_CHARACTERS - len(title)) + f"{blanks}host: a.b"),)
    request = Request(lease=WORK, service="vitrail.OpenFile", claims=claims)
    rows = [row for row, _ in text_rows(question_for(request))]
    assert len(rows[-2]) == LINE_CHARACTERS
    assert rows[-1] == f"    {blanks}host: a.b"


@pytest.mark.parametrize(
    "fields",
    [
        {"service": "vitrail.Secret", "argument": "+one, or to paste"},
        {"service": "vitrail.Print", "about": "one, or to paste"},
        {"service": "vitrail.Tcp", "argument": "+one, or to paste"},
        {"service": "vitrail.Call", "argument": "+one, or to paste"},
        {"service": "one, or to paste"},
        {"service": "vitrail.SshAgent", "target": "one, or to paste"},
        {"service": "vitrail.Device", "device": DeviceFacts("one, or to paste")},
        {"service": "vitrail.SecurityKey", "way": "look", "host": "one, or to paste"},
        {"service": "vitrail.SecurityKey", "way": "look", "about": "one, or to paste"},
    ],
)
def test_a_name_does_not_continue_the_sentence(fields):
    words, _ = texts_of(Request(lease=WORK, **fields))
    assert "one," in words
    assert "one, or" not in words
    assert words.isascii()


@pytest.mark.parametrize(
    "requests",
    [
        (),
        ({"lease": WORK, **PASTE}, {"lease": VAULT, **SSH}),
        ({"lease": WORK, **PASTE}, {"lease": VAULT, **PASTE}),
        (
            {"lease": WORK, "service": "vitrail.Device", "device": STICK},
            {"lease": VAULT, "service": "vitrail.Device", "device": KEYBOARD},
        ),
        (
            {"lease": WORK, "service": "vitrail.Device", "device": STICK},
            {"lease": VAULT, **SSH, "device": STICK},
        ),
        (
            {"lease": WORK, "service": "vitrail.Device"},
            {"lease": VAULT, "service": "vitrail.Device"},
        ),
    ],
    ids=["none", "two services", "no device's", "two devices", "one more", "no device"],
)
async def test_a_choice_between_a_harmless_and_a_harmful_request(requests):
    async with hostile("* * * * ask\n") as (made, client):
        await client.announce(WORK)
        await client.announce(VAULT, request=1 << 10)
        await client.say(choice(*requests)._replace(number=1 << 11))
        await ends(made, "a choice that is not about one device")
        assert made.person.asked == []


async def test_a_choice_names_the_device():
    device = {"service": "vitrail.Device", "device": STICK}
    async with hostile("vitrail.Device * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        made.person.says = yes(target="work")
        await client.say(choice({"lease": WORK, **device}))
        await client.hear(m.Chosen)
        (question,) = made.person.asked
        assert question.words == "to attach the USB device 0781:5581"
        assert question.details == (("number", "0781:5581"), ("port", "1-1"))


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "vault", "target": "work"},
        {"source": "@adminvm", "target": "vault"},
        {"source": "dom0", "target": "work"},
    ],
)
async def test_a_paste_in_the_name_of_another_sandbox(fields):
    """By the rules about that one, in a question about this one."""
    async with hostile("vitrail.ClipboardPaste * * * ask\n") as (made, client):
        await client.announce(WORK)
        await client.say(ask(2, **{**PASTE, **fields}))
        await ends(made, "not from the user to its sandbox")
        assert made.person.asked == []


@pytest.mark.parametrize("argument", ["+", "+x"])
async def test_a_screen_that_is_shared_unasked(argument):
    """Each share is asked about, also where a rule allows it."""
    screen = {"service": "vitrail.ScreenShare", "argument": argument, "settled": True}
    async with hostile("vitrail.ScreenShare * * @adminvm allow\n") as (made, client):
        await client.announce(WORK)
        made.person.says = yes()
        for number in (2, 3):
            await client.say(ask(number, **screen, asks=False))
            await client.hear(m.Permitted)
            assert len(made.person.asked) == number - 1
        await client.say(ask(4, **{**screen, "argument": "+own"}))
        await client.hear(m.Permitted)
        assert len(made.person.asked) == 2


async def test_a_pin_for_a_use_of_the_key():
    fields = {"service": "vitrail.SecurityKey", "way": "pin", "host": "bank.example"}
    async with hostile("vitrail.SecurityKey * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        await client.say(ask(2, **fields, asks=True))
        await ends(made, "it requests a PIN other than before a use")


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({"service": "vitrail.Folder", "about": "/a/x"}, {"about": "/b/x"}),
        ({"service": "vitrail.Folder"}, {"write": True}),
        ({"service": "vitrail.Print", "about": "Office"}, {"about": "Lobby"}),
        ({"service": "vitrail.SecurityKey", "way": "look"}, {"way": "sign in"}),
        ({"service": "vitrail.SecurityKey", "about": "11"}, {"about": "22"}),
        ({**SSH, "host": "a", "about": "SHA256:1"}, {"about": "SHA256:2"}),
    ],
)
async def test_a_remembered_yes_is_for_what_was_read(first, other):
    rule = f"{first['service']} * * @adminvm ask ttl=1h write=yes\n"
    if first["service"] != "vitrail.Folder":
        rule = rule.replace(" write=yes", "")
    async with hostile(rule) as (made, client):
        await client.announce(WORK)
        made.person.says = yes(Keep.TIME)
        await client.say(ask(2, **first))
        await client.hear(m.Permitted)
        await client.say(ask(3, **first))
        await client.hear(m.Permitted)
        assert len(made.person.asked) == 1
        decider = made.authority.decider
        (grant,) = decider.grants.all(decider.clock.now())
        shown = _grant(decider, grant).about.split(", ")
        told = [first.get(key) for key in ("host", "about", "way")]
        assert shown == ([one for one in told if one] or [""])
        made.person.says = no
        await client.say(ask(4, **{**first, **other}))
        assert (await client.hear(ErrorMessage)).call == 4
        assert len(made.person.asked) == 2


async def test_one_yes_for_an_address_is_for_its_host():
    """As a rule is, whatever the rest of the address."""
    first = {"service": "vitrail.OpenURL", "scheme": "https", "host": "a.example"}
    async with hostile("vitrail.OpenURL * * @adminvm ask ttl=1h\n") as (made, client):
        await client.announce(WORK)
        made.person.says = yes(Keep.TIME)
        for number, path in ((2, "x"), (3, "y")):
            about = f"https://a.example/{path}"
            await client.say(ask(number, **first, about=about))
            signed = (await client.hear(m.Permitted)).warrant
            warrant = msgspec.json.decode(signed[SIGNATURE_BYTES:], type=PermitWarrant)
            assert warrant.about == about
        assert len(made.person.asked) == 1


WITHOUT_HOST = {
    "mail": ("mailto:shop@example.org?subject=Order", "mailto:boss@example.com"),
    "copy": ("mailto:a@example.org", "mailto:a@example.org?cc=b@example.org"),
    "telephone": ("tel:+4930123", "tel:+4990019001900"),
    "room": ("matrix:r/a:example.org", "matrix:r/b:example.org"),
}


@pytest.mark.parametrize(("first", "other"), WITHOUT_HOST.values(), ids=WITHOUT_HOST)
@pytest.mark.parametrize("host", [None, ""])
async def test_one_yes_for_an_address_without_a_host_is_for_this_address(
    first, other, host
):
    """No program was taken over here: a mail "for 10 minutes" was every mail."""
    fields = {"scheme": first.partition(":")[0], "host": host}
    async with hostile("vitrail.OpenURL * * @adminvm ask ttl=10m\n") as (made, client):
        await client.announce(WORK)
        made.person.says = yes(Keep.TIME)
        for number in (2, 3):
            await client.say(
                ask(number, service="vitrail.OpenURL", about=first, **fields)
            )
            await client.hear(m.Permitted)
        assert len(made.person.asked) == 1
        made.person.says = no
        await client.say(ask(4, service="vitrail.OpenURL", about=other, **fields))
        assert (await client.hear(ErrorMessage)).call == 4
        assert ("what", other) in made.person.asked[1].details


OTHERS = {
    "path": ({"host": "a.b", "about": "https://a.b/"}, {"about": "https://a.b/pay"}),
    "mail": ({"about": "mailto:a@b.c?subject=Order"}, {"about": "mailto:d@e.f"}),
    "name": (
        {"service": "vitrail.OpenFile", "claims": (("what", "a.pdf"),)},
        {"claims": (("what", "b.pdf"),)},
    ),
    "size": ({"service": "vitrail.OpenFile", "size": 1}, {"size": 1 << 30}),
}


async def given_up(made, first):
    """A request whose program goes when the user is asked, and who says yes then."""
    gone = trio.Event()

    async def late(question):
        gone.set()
        await trio.testing.wait_all_tasks_blocked()
        return yes()(question)

    made.person.says = late
    with pytest.raises(RefusedError, match="given up before the answer"):
        async with made.authority.decider.permit(first, gone=gone):
            raise AssertionError


@pytest.mark.parametrize(("first", "other"), OTHERS.values(), ids=OTHERS)
async def test_a_late_yes_is_for_the_request_that_the_user_has_read(first, other):
    """What a grant would be for is more than what one yes for once is for."""
    request = Request(lease=WORK, **{"service": "vitrail.OpenURL", **first})
    rules = "vitrail.OpenURL * * @adminvm ask\nvitrail.OpenFile * * @adminvm ask\n"
    async with hostile(rules) as (made, client):
        await client.announce(WORK)
        await given_up(made, request)
        made.person.says = no
        with pytest.raises(RefusedError, match="the user said no"):
            async with made.authority.decider.permit(replace(request, **other)):
                raise AssertionError
        async with made.authority.decider.permit(request):
            assert len(made.person.asked) == 2, "the equal one has it"


@pytest.mark.parametrize("service", ["vitrail.OpenURL", "vitrail.FileCopy", "t.Do"])
async def test_only_programs_that_play_sound_give_up(service):
    async with hostile(f"{service} * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        await client.say(ask(2, service=service))
        await made.person.wait_asked(1)
        await client.say(SentMessage(m.PERMIT_GONE, m.NamedPermit(2)))
        await ends(made, "cannot be given up")


@pytest.mark.parametrize("service", ["vitrail.OpenFile", "vitrail.OpenURL", "t.Do"])
async def test_only_a_question_about_a_paste_names_several_requests(service):
    """A yes for one file was one for each other of its type, while it was carried out."""
    async with hostile(f"{service} * * @adminvm ask\n") as (made, client):
        await client.announce(WORK)
        made.person.says = yes()
        await client.say(ask(2, service=service))
        await client.hear(m.Permitted)
        await client.say(ask(3, service=service, covered=2))
        await ends(made, "names several requests")
        assert len(made.person.asked) == 1


REMEMBERED = {
    "every address of this host": {
        "service": "vitrail.OpenURL",
        "scheme": "https",
        "host": "a.example",
        "about": "https://a.example/x",
    },
    "this address": {
        "service": "vitrail.OpenURL",
        "scheme": "mailto",
        "host": "",
        "about": "mailto:a@b.c",
    },
    "every file": {"service": "vitrail.FileCopy", "claims": (("what", "a"),)},
    "every file of this type": {
        "service": "vitrail.OpenFile",
        "mime": "application/pdf",
        "claims": (("what", "a.pdf"),),
    },
    "every document": {"service": "vitrail.Print", "about": "laser"},
    "everything that you copy": {
        "service": "vitrail.ClipboardPaste",
        "mime": "text/plain",
    },
    "everything that you drag": {
        "service": "vitrail.ClipboardPaste",
        "mime": "text/plain",
        "way": "drag",
    },
}


@pytest.mark.parametrize("limit", ["ttl=10m", "remember=session"])
@pytest.mark.parametrize("text", REMEMBERED)
async def test_each_choice_says_what_it_is_for(text, limit):
    fields = REMEMBERED[text]
    async with hostile(f"{fields['service']} * * * ask {limit}\n") as (made, client):
        await client.announce(WORK)
        made.person.says = no
        await client.say(ask(2, **fields))
        await client.hear(ErrorMessage)
        (question,) = made.person.asked
    once, longer = [keep_words(question, keep) for keep in question.keeps]
    assert once == "once"
    assert longer in {f"for 10 minutes: {text}", f"until it stops: {text}"}


async def test_a_type_that_the_question_has_not_named():
    claims = (("type", "text/plain"), ("type", "text/html"))
    async with hostile("vitrail.ClipboardPaste * * * ask mime=*/*\n") as (made, client):
        await client.announce(WORK)
        await client.announce(VAULT, request=2)
        made.person.says = yes(target="vault")
        await client.say(ask(3, **PASTE, claims=claims))
        await client.hear(m.Permitted)
        await client.say(ask(4, **{**PASTE, "mime": "text/html"}, covered=3))
        await client.hear(m.Permitted)
        assert len(made.person.asked) == 1
        made.person.says = no
        await client.say(ask(5, **{**PASTE, "mime": "image/png"}, covered=3))
        with trio.fail_after(30):
            await client.hear(ErrorMessage)
        assert len(made.person.asked) == 2

"""What a resolver answers, and what a guest gets of it: dnspython reads and writes both.

RFC 1035, 2181, 3597 (types that are not known), 5452 and 6891 (EDNS).
"""

from __future__ import annotations

import struct

import pytest
from dns import flags, opcode, rcode, rdataclass, rdatatype, rrset
from dns.message import from_wire, make_query, make_response
from hypothesis import given
from hypothesis import strategies as st

from broker.core.limits import network as limits
from broker.host.network.flowguard import dns_messages
from broker.host.network.frameguard import packets
from tests.broker.host.network.test_dns_streams import Client
from tests.broker.host.network.test_flow_filter import (
    EVIL,
    RESOLVER,
    WWW,
    Talk,
    packed,
    record,
    tcp,
    udp,
    wire,
)

NAME = "www.test."
LONG = ["TXT", " ".join(f'"{chr(65 + n)}{"x" * 200}"' for n in range(12))]


class Names:
    """A guest with a permitted name, and a resolver of the test's."""

    def __init__(self, *names, **more):
        self.talk = Talk(*((name, "*") for name in names or ("www.test",)), **more)

    def ask(self, query):
        """Send a question; returns the question to the resolver, or the answer."""
        sent = self.talk.send(udp(query.to_wire(), receiver=RESOLVER))
        if sent["resolver"]:
            (data,) = sent["resolver"]
            return from_wire(data)
        (frame,) = sent["guest"]
        return from_wire(packets.read(frame).data)

    def answer(self, response):
        """Have the resolver answer; returns what the guest gets, or the next question."""
        data = response if isinstance(response, bytes) else response.to_wire()
        self.talk.filter.answered(data, self.talk.now)
        sent = self.talk.pump()
        if sent["resolver"]:
            (data,) = sent["resolver"]
            return from_wire(data)
        if not sent["guest"]:
            return None
        (frame,) = sent["guest"]
        return from_wire(packets.read(frame).data)


def responding(query, *records, code=rcode.NOERROR, authority=(), additional=()):
    made = make_response(query)
    made.set_rcode(code)
    for section, given_ in (
        (made.answer, records),
        (made.authority, authority),
        (made.additional, additional),
    ):
        section += [rrset.from_text(name, 60, "IN", *one) for name, *one in given_]
    return made


ANSWERS = {
    "CNAME": "other.test.",
    "NS": "ns.test.",
    "SOA": "ns.test. me.test. 1 2 3 4 5",
    "PTR": "other.test.",
    "MX": "10 mx.test.",
    "TXT": '"text"',
    "SRV": "0 0 443 other.test.",
    "NAPTR": '10 20 "u" "E2U+sip" "!^.*$!sip:me@test!" .',
    "SSHFP": "4 2 " + "ab" * 32,
    "TLSA": "3 1 1 " + "cd" * 32,
    "DS": "12345 13 2 " + "ef" * 32,
    "DNSKEY": "257 3 13 " + "AA" * 43 + "A=",
    "URI": '10 1 "https://www.test/"',
    "CAA": '0 issue "ca.test"',
    "DNAME": "other.test.",
    "OPENPGPKEY": "AAAA",
    "SMIMEA": "3 0 0 abcd",
    "LOC": "52 22 23 N 4 53 32 E -2m 0m 10000m 10m",
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("edns", [-1, 0])
def test_a_type_without_addresses_is_asked_and_answered(kind, edns):
    names = Names()
    query = make_query("wWw.TeST", kind, use_edns=edns)
    asked = names.ask(query)
    assert asked.question[0].rdtype == rdatatype.from_text(kind)
    told = names.answer(responding(asked, (NAME, kind, ANSWERS[kind])))
    assert query.is_response(told)
    assert str(told.question[0].name) == "wWw.TeST."
    assert told.answer == [rrset.from_text(NAME, 60, "IN", kind, ANSWERS[kind])]
    assert told.edns == edns
    assert told.flags & flags.RA


@pytest.mark.parametrize(
    "kind", ["HTTPS", "SVCB", "ANY", "AXFR", "A6", "APL", "TYPE777"]
)
def test_a_type_with_addresses_or_keys_is_not_asked(kind):
    names = Names()
    made = names.ask(make_query(NAME, kind))
    assert made.flags & flags.QR
    assert (made.rcode(), made.answer) == (rcode.NOERROR, [])


def test_other_records_are_left_out():
    """The additional section, what is behind a key of a server, and addresses."""
    names = Names()
    asked = names.ask(make_query(NAME, "MX"))
    mail, https = (NAME, "MX", "1 mx.test."), (NAME, "HTTPS", "1 . alpn=h3")
    soa = ("test.", "SOA", "ns.test. me.test. 1 2 3 4 5")
    address = ("mx.test.", "A", EVIL)
    told = names.answer(
        responding(asked, mail, authority=[soa], additional=[address, https])
    )
    assert [len(part) for part in (told.answer, told.authority)] == [1, 1]
    assert told.additional == []
    for odd in (https, address):
        asked = names.ask(make_query(NAME, "MX"))
        told = names.answer(responding(asked, mail, odd, mail, authority=[soa]))
        assert [str(one.rdtype.name) for one in told.answer] == ["MX"]
        assert told.authority == []
        asked = names.ask(make_query(NAME, "MX"))
        told = names.answer(responding(asked, mail, authority=[odd, soa]))
        assert told.authority == []
    assert names.talk.send(tcp(receiver=EVIL))["passt"] == []


def test_an_alias_leads_to_what_was_asked_for():
    names = Names("_25._tcp.www.test")
    asked = names.ask(make_query("_25._TCP.www.test", "TLSA"))
    alias = ("_25._tcp.www.test.", "CNAME", "key.test.")
    told = names.answer(
        responding(asked, alias, ("key.test.", "TLSA", ANSWERS["TLSA"]))
    )
    assert [one.rdtype for one in told.answer] == [rdatatype.CNAME, rdatatype.TLSA]


def streamed(talk):
    """The one question by TCP."""
    (data,) = talk.filter.to_streams
    talk.filter.to_streams.clear()
    return from_wire(data)


def test_addresses_that_are_cut_are_asked_for_by_tcp():
    """Also where the guest has asked by UDP: "there is no address" was not said."""
    names = Names()
    query = make_query(NAME, "A")
    asked = names.ask(query)
    made = responding(asked)
    made.flags |= flags.TC
    assert names.answer(made) is None
    again = streamed(names.talk)
    assert again.question == asked.question
    assert names.answer(made) is None
    assert names.talk.filter.to_streams == [], "it is asked once"
    data = responding(again, (NAME, "A", WWW)).to_wire()
    names.talk.filter.answered(data, names.talk.now, by_stream=True)
    (frame,) = names.talk.pump()["guest"]
    told = from_wire(packets.read(frame).data)
    assert query.is_response(told)
    assert told.answer[0][0].address == WWW
    assert names.talk.send(tcp())["passt"]


def test_another_answer_that_is_cut_has_the_guest_ask_by_tcp():
    names = Names()
    query = make_query(NAME, "TXT")
    made = responding(names.ask(query), (NAME, "TXT", '"a part"'))
    made.flags |= flags.TC
    told = names.answer(made)
    assert query.is_response(told)
    assert told.flags & flags.TC
    assert told.answer == []
    client = Client(names.talk).open()
    data = query.to_wire()
    _, (sent,) = client.send(data=len(data).to_bytes(2) + data)
    made = responding(from_wire(sent))
    made.flags |= flags.TC
    assert client.answered(made.to_wire()) == []
    data = responding(streamed(names.talk), (NAME, *LONG)).to_wire(max_size=65535)
    names.talk.filter.answered(data, names.talk.now, by_stream=True)
    client.take(names.talk.pump()["guest"])
    assert len(from_wire(client.got[2:]).answer[0][0].strings) == 12


@pytest.mark.parametrize("told", [True, False])
def test_an_answer_that_does_not_come_by_tcp_is_a_failure(told):
    names = Names()
    made = responding(names.ask(make_query(NAME, "A")))
    made.flags |= flags.TC
    assert names.answer(made) is None
    number = made.id.to_bytes(2)
    names.talk.filter.answered(number, names.talk.now)
    assert names.talk.pump()["guest"] == [], "by UDP this says nothing"
    if told:
        names.talk.filter.answered(number, names.talk.now, by_stream=True)
    else:
        names.talk.now += limits.LOOKUP_SECONDS
        names.talk.filter.tick(names.talk.now)
    (frame,) = names.talk.pump()["guest"]
    assert from_wire(packets.read(frame).data).rcode() == rcode.SERVFAIL


@pytest.mark.parametrize("code", [rcode.FORMERR, rcode.NOTIMP])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("kind", ["A", "TXT"])
def test_a_resolver_without_edns_is_asked_without_it(code, bare, kind):
    """RFC 6891, 7; some give the header back, and no question."""
    names = Names()
    query = make_query(NAME, kind, use_edns=0)
    asked = names.ask(query)
    assert asked.edns == 0
    refused = responding(asked, code=code)
    refused.use_edns(-1)
    if bare:
        refused.question.clear()
    again = names.answer(refused)
    assert (again.edns, again.question) == (-1, asked.question)
    text = WWW if kind == "A" else '"x"'
    told = names.answer(responding(again, (NAME, kind, text)))
    assert query.is_response(told)
    assert str(told.answer[0][0]) == text
    asked = names.ask(query)
    for _ in range(2):
        refused = responding(asked, code=code)
        told = names.answer(refused)
    assert told.flags & flags.QR, "it is asked twice, and not for ever"
    assert told.rcode() == code


def test_one_name_that_is_not_ascii_drops_its_record():
    """And an alias whose target has a dot in a label leads nowhere."""
    odd = b"\3w\xffw\4test\0" + struct.pack(">HHIH", 1, 1, 60, 4) + packed(EVIL)
    dotted = record("www.test", dns_messages.CNAME, b"\6a.test\0")
    for before in (odd, dotted):
        talk = Talk(("www.test", "*"))
        records = before + record("www.test", dns_messages.A, packed(WWW))
        told = from_wire(talk.resolve("www.test", records=records, count=2))
        assert [one.address for one in told.answer[0]] == [WWW]
        assert talk.send(tcp(receiver=EVIL))["passt"] == []
        assert talk.send(tcp())["passt"]


def test_a_truncated_record_ends_the_records():
    whole = record("www.test", dns_messages.A, packed(WWW))
    for end in range(1, len(whole)):
        talk = Talk(("www.test", "*"))
        told = from_wire(talk.resolve("www.test", records=whole + whole[:end], count=9))
        assert [one.address for one in told.answer[0]] == [WWW]


def test_a_long_chain_of_pointers_costs_little():
    """Attack: each of 512 names leads through all of an answer by TCP."""
    made = make_query(NAME, "TXT").to_wire()
    filler = made[12:]  # a chain of pointers, in a record's value
    begin = 12 + len(filler) + 2 + 10
    chain = [struct.pack(">H", 0xC000 | 12)]
    chain += [struct.pack(">H", 0xC000 | begin + 2 * n) for n in range(8000)]
    value = b"".join(chain)
    record_ = b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 60, len(value)) + value
    last = struct.pack(">H", 0xC000 | begin + 2 * 7900)
    odd = last + struct.pack(">HHIH", 16, 1, 60, 0)
    data = made[:2] + struct.pack(">5H", 0x8180, 1, 512, 0, 0) + filler + record_
    question = dns_messages.read_question(made)
    answer = dns_messages.read_answer(data + odd * 511, question)
    assert answer.counts == (1, 0)


def test_an_answer_is_as_long_as_the_guest_can_take():
    """512 bytes without EDNS, else what it says, and by TCP all of it."""
    many = [(NAME, "AAAA", *(f"2001:db8::{n:x}" for n in range(1, 33)))]
    found = {}
    for payload in (None, 600, 100, 4096):
        for kind, records in (("AAAA", many), ("TXT", [(NAME, *LONG)])):
            names = Names(guest6="fd00::2", gateway6="fd00::1")
            more = {} if payload is None else {"use_edns": 0, "payload": payload}
            query = make_query(NAME, kind, **more)
            made = names.ask(query)
            names.talk.filter.answered(
                responding(made, *records).to_wire(max_size=65535), names.talk.now
            )
            (frame,) = names.talk.pump()["guest"]
            data = packets.read(frame).data
            room = min(max(payload or 512, 512), limits.ANSWER_BYTES)
            assert len(data) <= room
            told = from_wire(data)
            assert query.is_response(told)
            count = sum(map(len, told.answer))
            assert bool(told.flags & flags.TC) is (kind == "TXT" or count < 32)
            found[payload, kind] = count
    assert found[100, "AAAA"] < found[None, "AAAA"], "EDNS takes room"
    assert 0 < found[None, "AAAA"] < found[600, "AAAA"] < found[4096, "AAAA"] == 32


def test_by_tcp_an_answer_is_whole():
    names = Names()
    client = Client(names.talk).open()
    query = make_query(NAME, "TXT")
    data = query.to_wire()
    _, (sent,) = client.send(data=len(data).to_bytes(2) + data)
    asked = from_wire(sent)
    client.answered(responding(asked, (NAME, *LONG)).to_wire(max_size=65535))
    told = from_wire(client.got[2:])
    assert query.is_response(told)
    assert len(told.answer[0][0].strings) == 12


def test_all_addresses_of_a_name_by_tcp():
    """By UDP as many as fit, and the flag that has a resolver ask again by TCP."""
    records = [(NAME, "A", *(f"93.184.{n // 250}.{n % 250}" for n in range(400)))]
    names = Names()
    query = names.ask(make_query(NAME, "A", use_edns=0, payload=4096))
    response = responding(query, *records).to_wire(max_size=65535)
    reply = names.answer(response)
    assert reply.flags & flags.TC
    assert 60 < len(reply.answer[0]) < 100
    client = Client(names.talk).open()
    data = make_query(NAME, "A").to_wire()
    _, (sent,) = client.send(data=len(data).to_bytes(2) + data)
    query = from_wire(sent)
    client.answered(responding(query, *records).to_wire(max_size=65535))
    reply = from_wire(client.got[2:])
    assert not reply.flags & flags.TC
    assert len(reply.answer[0]) == 400
    assert names.talk.send(tcp(receiver="93.184.1.140"))["passt"]


@pytest.mark.parametrize("edns", [-1, 0])
def test_aliases_of_an_address_in_the_answer(edns):
    names = Names()
    query = make_query("wWw.test", "A", use_edns=edns)
    aliases = [(NAME, "CNAME", "a.b.test."), ("a.b.test.", "CNAME", "c.test.")]
    reply = names.answer(responding(names.ask(query), *aliases, ("c.test.", "A", WWW)))
    assert query.is_response(reply)
    assert reply.answer == [
        rrset.from_text("wWw.test.", 60, "IN", "CNAME", "a.b.test."),
        rrset.from_text("a.b.test.", 60, "IN", "CNAME", "c.test."),
        rrset.from_text("c.test.", 60, "IN", "A", WWW),
    ]
    assert names.talk.send(tcp())["passt"]


@pytest.mark.parametrize("code", [rcode.NOERROR, rcode.NXDOMAIN])
def test_soa_in_an_answer_without_addresses(code):
    """So a resolver of the guest knows how long the name has none (RFC 2308)."""
    names = Names()
    query = make_query(NAME, "A")
    alias = (NAME, "CNAME", "a.test.")
    soa = ("test.", "SOA", "ns.test. me.test. 1 2 3 4 5")
    response = responding(names.ask(query), alias, code=code, authority=[soa])
    reply = names.answer(response)
    assert reply.rcode() == code
    assert [item.rdtype for item in reply.answer] == [rdatatype.CNAME]
    assert [item.rdtype for item in reply.authority] == [rdatatype.SOA]
    # An address of another name belongs to no answer.
    again = names.ask(query)
    reply = names.answer(responding(again, ("evil.test.", "A", EVIL), authority=[soa]))
    assert (reply.answer, reply.authority) == ([], [])
    assert names.talk.send(tcp(receiver=EVIL))["passt"] == []


def test_other_operations_and_classes_have_an_answer():
    names = Names()
    for code in (opcode.STATUS, opcode.NOTIFY, opcode.UPDATE, 15):
        query = make_query(NAME, "A")
        query.set_opcode(code)
        reply = names.ask(query)
        assert (reply.id, reply.opcode()) == (query.id, code)
        assert reply.flags & flags.QR
        assert reply.rcode() == rcode.NOTIMP
    query = make_query(NAME, "TXT", rdclass=rdataclass.CH)
    reply = names.ask(query)
    assert query.is_response(reply)
    assert reply.rcode() == rcode.REFUSED
    empty = make_query(NAME, "A")
    empty.question.clear()
    reply = names.ask(empty)
    assert (reply.id, reply.rcode()) == (empty.id, rcode.FORMERR)


def test_a_later_version_of_edns_has_the_code_for_it():
    """BADVERS of RFC 6891, 6.1.3: the asker uses version 0 then."""
    names = Names()
    query = make_query(NAME, "A", use_edns=100)
    reply = names.ask(query)
    assert query.is_response(reply)
    assert (reply.rcode(), reply.edns, reply.answer) == (rcode.BADVERS, 0, [])


def test_answers_to_other_messages_have_a_pace():
    names = Names()
    data = make_query(NAME, "A").to_wire()[:12]
    sent = [names.talk.send(udp(data, receiver=RESOLVER))["guest"] for _ in range(400)]
    assert sum(map(len, sent)) == limits.LOOKUPS_BURST


def test_a_response_and_a_torn_header_have_no_answer():
    """Attack: two of our name servers would answer each other for ever."""
    names = Names()
    for data in (responding(make_query(NAME, "A")).to_wire(), b"\1\2\3"):
        assert names.talk.send(udp(data, receiver=RESOLVER))["guest"] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:2] + bytes([data[2] & 0x7F]) + data[3:],  # a question
        lambda data: data[:2] + bytes([data[2] | 0x28]) + data[3:],  # an update
        lambda data: data[:4] + b"\0\2" + data[6:],
        lambda data: data[:4] + b"\0\0" + data[6:],
        lambda data: data[:12] + wire("abc.test") + data[22:],
        lambda data: data[:22] + b"\0\2" + data[24:],
        lambda data: data[:24] + b"\0\3" + data[26:],
        lambda data: data[:11],
    ],
)
def test_what_is_no_answer_to_the_question_is_waited_past(change):
    names = Names()
    asked = names.ask(make_query(NAME, "A"))
    good = responding(asked, (NAME, "A", WWW)).to_wire()
    assert names.answer(change(good)) is None
    assert str(names.answer(good).answer[0][0]) == WWW


def test_a_question_by_a_pointer_is_not_taken_over():
    """Its length is another one, and names behind it lead elsewhere."""
    names = Names("a.test")
    sent = names.ask(make_query("a.test", "TXT"))
    # The name ends in the header, whose counts are a label and the root.
    head = struct.pack(">6H", sent.id, 0x8180, 1, 0, 0, 0)
    data = head + b"\1a\4test\xc0\x08" + struct.pack(">HH", 16, 1)
    assert names.answer(data) is None


def test_a_question_has_one_edns_record_or_what_it_likes_behind_it():
    for more in (b"x", b"\0\0\x29", b"\0" + bytes(40), b"\xc0\x0c" + bytes(20)):
        names = Names()
        data = make_query(NAME, "A").to_wire()
        data = data[:10] + b"\0\1" + data[12:] + more
        assert names.talk.send(udp(data, receiver=RESOLVER))["resolver"]


@given(st.binary(max_size=300), st.sampled_from(["A", "MX", "TXT", "CNAME"]))
def test_nothing_confuses_it(data, kind):
    names = Names()
    asked = names.ask(make_query(NAME, kind))
    good = responding(asked).to_wire()
    for made in (good[:12] + data, good[:6] + b"\0\7\0\7\0\7" + good[12:] + data):
        names.talk.filter.answered(made, names.talk.now)
        for frame in names.talk.pump()["guest"]:
            assert packets.read(frame) is not None

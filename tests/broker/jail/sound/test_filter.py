"""Handshake, looking around, labels: what a client may say and is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import InternalError, PeerError, UpstreamError
from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Microphone, SoundRules
from broker.jail.sound import frames
from broker.jail.sound.commands import (
    INVALID,
    NOT_FROM_CLIENTS,
    REFUSED,
    REQUESTS,
    ChangeKind,
    Command,
    Error,
    Facility,
)
from broker.jail.sound.events import CommandRefused
from broker.jail.sound.tagstruct import Reader, encode
from tests.broker.jail.sound.test_tagstruct import VALUES
from tests.kit.sound.talk import Said, Server, Talk, create_playback

C = Command
MIC = SoundRules("work", microphone=Microphone.ASK)
SINK = "LttamLvbLsUtLPUVLLLLsF"


def test_the_handshake_shares_no_memory_and_uses_our_cookie():
    talk = Talk(start=False)
    talk.core._cookie = b"\7" * 256
    answer = talk.ask(C.AUTH, encode("Lx", [35 | 0xC0000000, b"guest's"]))
    assert answer.fields("L") == [35]
    (auth,) = talk.server.named(C.AUTH)
    assert auth.fields("Lx") == [35, b"\7" * 256]


@pytest.mark.parametrize(
    "theirs", [13, 14, 15, 17, 18, 20, 21, 22, 26, 30, 32, 34, 35, 36, 99]
)
@pytest.mark.parametrize("servers", [13, 20, 35, 36])
def test_every_version_can_look_around_and_play(theirs, servers):
    talk = Talk(MIC, version=theirs, server=Server(servers))
    talk.version = talk.core.version
    assert talk.version == min(theirs, servers, 35)
    assert talk.ask(C.GET_SERVER_INFO).command is C.REPLY
    sink = Reader(talk.ask(C.GET_SINK_INFO_LIST).body)
    letters = "".join(
        part for since, part in
        [(13, "LttamLvbLsUtLPU"), (15, "VLLL"), (16, "Ls"), (21, "F")] if since <= talk.version
    )  # fmt: skip
    assert sink.fields(letters).text(1) == "vitrail"
    assert sink.left == 0
    source = Reader(talk.ask(C.GET_SOURCE_INFO_LIST).body)
    source.fields(letters if talk.version != 21 else letters[:-1])
    assert source.left == 0
    talk.play()


@pytest.mark.parametrize(
    "where",
    [
        "from the client",
        "from the server",
        "in time",
        "plain samples",
        "plain requests",
    ],
)
def test_a_mistake_of_ours_ends_one_connection(where, monkeypatch):
    """The sandbox's windows live in the same process."""
    talk = Talk(MIC)

    def mistake(*_words):
        raise KeyError("ours")

    if where == "from the client":
        monkeypatch.setattr(talk.core, "_allowed", mistake)
        talk.say(C.GET_SERVER_INFO)
    elif where == "from the server":
        monkeypatch.setattr(talk.core, "_answer", mistake)
        talk.server_says(C.REQUEST, b"")
    elif where == "plain samples":
        channel, _ = talk.play()
        monkeypatch.setattr(talk.core.playbacks[channel], "passes", mistake)
        talk.raw(frames.samples(channel, bytes(4)))
    elif where == "plain requests":
        channel, _ = talk.play()
        monkeypatch.setattr(talk.core.playbacks[channel], "requested", mistake)
        talk.server_says(C.REQUEST, encode("LL", [channel, 4]))
    else:
        monkeypatch.setattr(talk.core.recordings, "tick", mistake)
        talk.core.tick(talk.now)
    assert isinstance(talk.core.fault, InternalError)
    assert "KeyError: 'ours'" in str(talk.core.fault)


@pytest.mark.parametrize("version", [0, 8, 12])
def test_older_clients_are_told_so(version):
    talk = Talk(start=False)
    answer = talk.ask(C.AUTH, encode("Lx", [version, b""]))
    assert answer.fields("L") == [Error.VERSION]
    assert isinstance(talk.core.fault, PeerError)
    assert not talk.server.said


@pytest.mark.parametrize(
    "words",
    [
        [(C.SET_CLIENT_NAME, encode("P", [{}]))],
        [(C.GET_SERVER_INFO, b"")],
        [(C.AUTH, encode("Lx", [35, b""])), (C.AUTH, encode("Lx", [35, b""]))],
        [(C.AUTH, encode("Lx", [35, b""])), (C.GET_SERVER_INFO, b"")],
        [(C.AUTH, encode("L", [35]))],
        [(C.AUTH, encode("LxL", [35, b"", 1]))],
    ],
)
def test_a_handshake_in_another_order_ends_the_connection(words):
    talk = Talk(start=False)
    for command, fields in words:
        assert talk.core.fault is None
        talk.say(command, fields)
    assert isinstance(talk.core.fault, PeerError)


def test_samples_before_the_handshake_end_the_connection():
    talk = Talk(start=False)
    talk.raw(frames.samples(0, b"abcd"))
    assert isinstance(talk.core.fault, PeerError)


def test_a_handshake_has_a_deadline():
    talk = Talk(start=False)
    talk.pass_time(limits.PULSE_HANDSHAKE_SECONDS - 0.1)
    assert talk.core.fault is None
    talk.pass_time(0.2)
    assert isinstance(talk.core.fault, PeerError)
    ready = Talk()
    ready.pass_time(limits.PULSE_HANDSHAKE_SECONDS * 2)
    assert ready.core.fault is None


def test_commands_pipelined_behind_auth_wait_for_its_answer():
    talk = Talk(start=False)
    talk.server.deaf.add(C.AUTH)
    talk.raw(
        frames.command(C.AUTH, 1, encode("Lx", [35, b""]))
        + frames.command(C.SET_CLIENT_NAME, 2, encode("P", [{}]))
        + frames.command(C.GET_SERVER_INFO, 3)
    )
    assert talk.core.stalled
    assert not talk.unread
    (auth,) = talk.server.named(C.AUTH)
    talk.core.from_server(talk.server.answer(auth), talk.now)
    talk.pump()
    assert [said.tag for said in talk.unread] == [1, 2, 3]


def test_it_sees_one_sink_and_no_sources_clients_or_names():
    talk = Talk()
    info = talk.ask(C.GET_SERVER_INFO).fields("ttttassLm")
    assert "alice" not in str(info)
    assert "desk" not in str(info)
    # A name that none has: SDL copies the default source's without a look at NULL.
    assert info[5:7] == ["vitrail", "@DEFAULT_SOURCE@"]
    sink = talk.ask(C.GET_SINK_INFO_LIST).fields(SINK)
    assert sink[:2] == [0, "vitrail"]
    assert talk.ask(C.GET_SOURCE_INFO_LIST).body == b""
    asked = encode("Ls", [0xFFFFFFFF, "@DEFAULT_SOURCE@"])
    assert talk.refused(C.GET_SOURCE_INFO, asked) == Error.NOENTITY
    for nothing in (
        C.GET_MODULE_INFO_LIST,
        C.GET_CARD_INFO_LIST,
        C.GET_SAMPLE_INFO_LIST,
    ):
        assert talk.ask(nothing).body == b""
    assert talk.ask(C.STAT).fields("LLLLL") == [0] * 5
    client = talk.ask(C.GET_CLIENT_INFO_LIST).fields("LtLtP")
    assert client[1] == "Player"
    assert not talk.server.named(C.GET_SERVER_INFO)


def test_of_the_servers_streams_only_the_own_ones_are_shown():
    talk = Talk()
    _, index = talk.play(properties={"media.name": b"a song\0"})
    listed = talk.ask(C.GET_SINK_INPUT_INFO_LIST).fields("LtLLLamvUUttbPbbbf")
    one = talk.ask(C.GET_SINK_INPUT_INFO, encode("L", [index])).fields(
        "LtLLLamvUUttbPbbbf"
    )
    assert not talk.server.named(C.GET_SINK_INPUT_INFO_LIST)
    for entry in (listed, one):
        assert entry[:5] == [index, "a song", INVALID, talk.core.index, 0]
        assert entry.properties(13) == {
            "application.name": b"Player\0",
            "media.name": b"a song\0",
        }
        assert "secret" not in str(entry)
        assert "soxr" not in str(entry)


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (C.GET_SINK_INFO, encode("Ls", [9, None])),
        (C.GET_SOURCE_INFO, encode("Ls", [3, None])),
        (C.GET_SINK_INPUT_INFO, encode("L", [5])),
        (C.GET_SINK_INPUT_INFO, encode("L", [700])),
        (C.GET_SOURCE_OUTPUT_INFO, encode("L", [5])),
        (C.GET_CLIENT_INFO, encode("L", [99])),
        (C.SET_SINK_INPUT_VOLUME, encode("Lv", [700, (0, 0)])),
        (C.SET_SINK_INPUT_MUTE, encode("Lb", [700, True])),
        (C.SET_SOURCE_OUTPUT_MUTE, encode("Lb", [5, True])),
        (C.GET_SOURCE_INFO, encode("Ls", [INVALID, "alsa.monitor"])),
        (C.GET_SOURCE_INFO, encode("Ls", [INVALID, "@DEFAULT_MONITOR@"])),
        (C.LOOKUP_SOURCE, encode("t", ["vitrail.monitor"])),
        (C.CREATE_PLAYBACK_STREAM, create_playback(sink=9)),
        (C.GET_MODULE_INFO, encode("L", [0])),
        (C.GET_CARD_INFO, encode("Ls", [0, None])),
    ],
)
def test_foreign_indexes_are_denied(command, fields):
    talk = Talk(MIC)
    talk.play()
    before = len(talk.server.said)
    assert talk.refused(command, fields) == Error.ACCESS
    assert len(talk.server.said) == before
    assert isinstance(talk.events[-1], CommandRefused)
    assert talk.sandbox.refused[command.name] == 1


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (C.GET_SINK_INFO, encode("Ls", [INVALID, "alsa.secret"])),
        (C.LOOKUP_SINK, encode("t", ["alsa.secret"])),
        (C.LOOKUP_SOURCE, encode("t", ["mic"])),
        (C.CREATE_PLAYBACK_STREAM, create_playback(name="alsa.secret")),
    ],
)
def test_foreign_names_do_not_exist(command, fields):
    talk = Talk(MIC)
    before = len(talk.server.said)
    assert talk.refused(command, fields) == Error.NOENTITY
    assert len(talk.server.said) == before


@pytest.mark.parametrize("name", [None, "vitrail", "@DEFAULT_SINK@"])
def test_the_sinks_names(name):
    talk = Talk()
    assert talk.ask(C.GET_SINK_INFO, encode("Ls", [INVALID, name])).fields(SINK)[0] == 0
    talk.play(name=name)


@pytest.mark.parametrize("command", sorted(REFUSED))
def test_refused_commands_are_denied_and_told(command):
    talk = Talk(MIC)
    assert (
        talk.refused(command, encode("Lts", [1, "module-null-sink", None]))
        == Error.ACCESS
    )
    assert talk.events == [CommandRefused(command.name, "the command is denied")]
    assert talk.ask(C.GET_SERVER_INFO).command is C.REPLY
    assert {one.command for one in talk.server.said} == {C.AUTH, C.SET_CLIENT_NAME}


@pytest.mark.parametrize("command", sorted({*NOT_FROM_CLIENTS, 105, 4096, INVALID}))
def test_what_only_servers_say_ends_the_connection(command):
    talk = Talk()
    talk.say(command, encode("L", [1]))
    assert isinstance(talk.core.fault, PeerError)


@pytest.mark.parametrize("command", sorted(set(REQUESTS) | {C.LOAD_MODULE}))
def test_fields_that_are_none_end_the_connection(command):
    talk = Talk(MIC)
    talk.say(command, b"\xff")
    assert isinstance(talk.core.fault, PeerError)


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (C.GET_SERVER_INFO, b""),
        (C.GET_MODULE_INFO_LIST, b""),
        (C.SUBSCRIBE, encode("L", [0x2FF])),
        (C.GET_SINK_INFO, encode("Ls", [INVALID, None])),
        (C.CORK_PLAYBACK_STREAM, encode("Lb", [0, True])),
        (C.SET_SINK_INPUT_MUTE, encode("Lb", [2, True])),
    ],
)
@pytest.mark.parametrize("more", [b"N", encode("L", [1]), b"x"])
def test_nothing_stands_behind_the_last_field(command, fields, more):
    talk = Talk()
    talk.play()
    assert talk.ask(command, fields).command is C.REPLY
    before = len(talk.server.said)
    talk.say(command, fields + more)
    assert isinstance(talk.core.fault, PeerError)
    assert "follow a command's last field" in str(talk.core.fault)
    assert len(talk.server.said) == before


def test_every_command_has_one_fate():
    fates = [set(REQUESTS), set(REFUSED), set(NOT_FROM_CLIENTS)]
    assert set.union(*fates) == set(Command)
    assert sum(map(len, fates)) == len(Command)


# -- labels ------------------------------------------------------------------------


def test_names_get_the_label_and_nothing_else_gets_through():
    talk = Talk(start=False)
    talk.ask(C.AUTH, encode("Lx", [35, b""]))
    hostile = {
        "application.name": "Fire\u202efox\n\x1b[2J".encode() + b"\0",
        "application.process.host": b"desk\0",
        "application.icon_name": b"security-high\0",
        "target.object": b"evil\0",
        "node.name": b"x\0",
        "media.class": b"Audio/Source\0",
        "vitrail.sandbox": b"bank\0",
        "module-stream-restore.id": b"x\0",
        "media.role": b"phone\0",
    }
    talk.ask(C.SET_CLIENT_NAME, encode("P", [hostile]))
    talk.play(properties=hostile | {"media.name": b"[bank] Radio\0"})
    said = talk.server.said[-2:]
    client = said[0].fields("P").properties(0)
    stream = (
        said[1].fields(REQUESTS[C.CREATE_PLAYBACK_STREAM].signature(35)).properties(20)
    )
    label = {"vitrail.sandbox": b"work\0", "application.icon_name": b"computer\0"}
    assert client == {"application.name": b"[work] Fire_fox__[2J\0", **label}
    assert stream == client | {"media.name": b"[work] [bank] Radio\0"}


def test_updates_keep_the_label():
    talk = Talk()
    channel, _ = talk.play()
    evil = {
        "media.name": b"b\0",
        "target.object": b"evil\0",
        "vitrail.sandbox": b"bank\0",
    }
    talk.ask(C.UPDATE_PLAYBACK_STREAM_PROPLIST, encode("LLP", [channel, 0, evil]))
    talk.ask(C.SET_PLAYBACK_STREAM_NAME, encode("Lt", [channel, "c"]))
    talk.ask(C.UPDATE_CLIENT_PROPLIST, encode("LP", [0, {"application.name": b"d\0"}]))
    talk.ask(
        C.REMOVE_CLIENT_PROPLIST, encode("k", [["application.name", "vitrail.sandbox"]])
    )
    talk.ask(C.REMOVE_PLAYBACK_STREAM_PROPLIST, encode("Lk", [channel, ["media.name"]]))
    label = {"vitrail.sandbox": b"work\0", "application.icon_name": b"computer\0"}
    one, two = talk.server.named(C.UPDATE_PLAYBACK_STREAM_PROPLIST)
    assert one.fields("LLP") == [channel, 2, {"media.name": b"[work] b\0"} | label]
    assert two.fields("LLP") == [channel, 2, {"media.name": b"[work] c\0"} | label]
    (three,) = talk.server.named(C.UPDATE_CLIENT_PROPLIST)
    assert three.fields("LP") == [2, {"application.name": b"[work] d\0"} | label]
    assert talk.server.said[-1] is three


@pytest.mark.parametrize("mode", [3, INVALID])
def test_unknown_ways_to_update_are_refused(mode):
    talk = Talk()
    assert (
        talk.refused(C.UPDATE_CLIENT_PROPLIST, encode("LP", [mode, {}]))
        == Error.INVALID
    )


def test_titles_do_not_change_too_often():
    talk = Talk()
    channel, _ = talk.play()
    update = encode("LLP", [channel, 2, {"media.name": b"x\0"}])
    for _ in range(limits.PULSE_TITLES_PER_MINUTE):
        assert talk.ask(C.UPDATE_PLAYBACK_STREAM_PROPLIST, update).command is C.REPLY
    assert talk.refused(C.UPDATE_PLAYBACK_STREAM_PROPLIST, update) == Error.ACCESS
    other = Talk(sandbox=talk.sandbox)  # counted for both together
    mine = encode("LP", [2, {"application.name": b"x\0"}])
    assert other.refused(C.UPDATE_CLIENT_PROPLIST, mine) == Error.ACCESS
    talk.pass_time(60)
    assert talk.ask(C.UPDATE_PLAYBACK_STREAM_PROPLIST, update).command is C.REPLY


def test_names_of_applications_at_the_limit():
    sandbox, names = Talk().sandbox, []
    for number in range(limits.PULSE_NAMES):  # one is there
        labelled = sandbox.labels.client({"application.name": f"n{number}\0".encode()})
        names.append(labelled["application.name"])
    assert names[-2] == f"[work] n{limits.PULSE_NAMES - 2}\0".encode()
    assert names[-1] == b"[work]\0"
    again = sandbox.labels.client({"application.name": b"n0\0"})
    assert again["application.name"] == b"[work] n0\0"


class _Confused(Server):
    """Reports one stream's state for another one, as with an index used again."""

    def get_sink_input_info(self, one):
        index = one.fields("L").number(0)
        return self.sink_input(5 if index == self.real[0] else index)


def test_a_stream_that_has_become_anothers_is_not_shown():
    talk = Talk(server=_Confused())
    _, first = talk.play()
    _, second = talk.play()
    asked = encode("L", [first])
    assert talk.refused(C.GET_SINK_INPUT_INFO, asked) == Error.NOENTITY
    listed = talk.ask(C.GET_SINK_INPUT_INFO_LIST).fields("LtLLLamvUUttbPbbbf")
    assert listed[0] == second


def test_a_list_goes_on_when_a_stream_has_ended_meanwhile():
    talk = Talk()
    _, first = talk.play()
    _, second = talk.play()
    talk.server.deaf = {C.GET_SINK_INPUT_INFO}
    talk.say(C.GET_SINK_INPUT_INFO_LIST)
    one, two = talk.server.named(C.GET_SINK_INPUT_INFO)
    gone = frames.command(C.ERROR, one.tag, encode("L", [Error.NOENTITY]))
    talk.core.from_server(gone + talk.server.answer(two), talk.now)
    talk.pump()
    (listed,) = talk.unread
    assert listed.fields("LtLLLamvUUttbPbbbf")[0] == second
    assert first != second


# -- tags, answers, events -----------------------------------------------------------


def test_two_commands_with_one_tag_do_not_confuse_the_answers():
    talk = Talk()
    _, index = talk.play()
    talk.server.deaf = {C.GET_SINK_INPUT_INFO, C.GET_PLAYBACK_LATENCY}
    talk.raw(
        frames.command(C.GET_SINK_INPUT_INFO_LIST, 7)
        + frames.command(C.GET_PLAYBACK_LATENCY, 7, encode("LT", [0, (1, 1)]))
    )
    one, two = talk.server.said[-2:]
    assert one.tag != two.tag
    for said in (two, one):  # the other way round
        talk.core.from_server(talk.server.answer(said), talk.now)
    talk.pump()
    latency, listed = talk.unread
    assert latency.fields("UUbTTrrUU")[0] == 1
    assert listed.fields("LtLLLamvUUttbPbbbf")[0] == index


def test_a_server_s_answer_without_a_request_ends_the_connection():
    talk = Talk()
    talk.core.from_server(frames.command(C.REPLY, 12345), talk.now)
    assert isinstance(talk.core.fault, UpstreamError)


def test_events_of_own_streams_are_passed_on_others_not():
    talk = Talk()
    other = Talk(sandbox=talk.sandbox, server=talk.server)
    talk.ask(C.SUBSCRIBE, encode("L", [0x3FF]))
    assert talk.server.named(C.SUBSCRIBE)[0].fields("L") == [4]
    _, index = other.play()
    talk.pump()
    new = [s.fields("LL") for s in talk.take(C.SUBSCRIBE_EVENT)]
    assert new == [[0x02, index]]
    real = talk.server.real[0]
    for kind, number in [
        (0x12, real),
        (0x12, 5),
        (0x02, 5),
        (0x22, 5),
        (0x10, 0),
        (0x19, 1),
        (0x14, 3),
    ]:
        talk.server_says(C.SUBSCRIBE_EVENT, encode("LL", [kind, number]))
    assert talk.core.fault is None
    assert [s.fields("LL") for s in talk.take(C.SUBSCRIBE_EVENT)] == [[0x12, index]]
    other.ask(C.DELETE_PLAYBACK_STREAM, encode("L", [0]))
    talk.pump()
    assert [s.fields("LL") for s in talk.take(C.SUBSCRIBE_EVENT)] == [[0x22, index]]


def test_events_of_the_server_are_rewritten():
    talk = Talk()
    channel, _ = talk.play()
    for command, fields in [
        (C.STARTED, encode("L", [channel])),
        (C.UNDERFLOW, encode("Lr", [channel, 5])),
        (C.PLAYBACK_STREAM_SUSPENDED, encode("Lb", [channel, True])),
        (C.PLAYBACK_BUFFER_ATTR_CHANGED, encode("LLLLLU", [channel, 1, 2, 3, 4, 5])),
    ]:
        talk.server_says(command, fields)
        (passed,) = talk.take(command)
        assert passed.body == fields
    moved = encode("LLtbLLLLU", [channel, 33, "hdmi.secret", False, 1, 2, 3, 4, 5])
    talk.server_says(C.PLAYBACK_STREAM_MOVED, moved)
    (passed,) = talk.take(C.PLAYBACK_STREAM_MOVED)
    assert passed.fields("LLtbLLLLU") == [channel, 0, "vitrail", False, 1, 2, 3, 4, 5]
    for name, count in [("request-cork", 1), ("secret", 0)]:
        talk.server_says(
            C.PLAYBACK_STREAM_EVENT, encode("LtP", [channel, name, {"a": b"b"}])
        )
        assert [s.fields("LtP")[2] for s in talk.take(C.PLAYBACK_STREAM_EVENT)] == [
            {}
        ] * count
    for dropped in (
        C.CLIENT_EVENT,
        C.ENABLE_SRBCHANNEL,
        C.REGISTER_MEMFD_SHMID,
        C.RECORD_STREAM_KILLED,
    ):
        talk.server_says(dropped, encode("L", [channel]))
    assert not talk.unread
    talk.server_says(C.PLAYBACK_STREAM_KILLED, encode("L", [channel]))
    assert talk.take(C.PLAYBACK_STREAM_KILLED)
    assert not talk.sandbox.playbacks
    assert not talk.sandbox.by_real


# -- bounds ---------------------------------------------------------------------------


def test_outstanding_commands_at_the_limit():
    talk = Talk()
    channel, _ = talk.play()
    talk.server.deaf = {C.GET_PLAYBACK_LATENCY}
    before = len(talk.server.said)
    for _ in range(limits.PULSE_OUTSTANDING + 1):
        talk.say(C.GET_PLAYBACK_LATENCY, encode("LT", [channel, (1, 1)]))
    assert talk.core.stalled
    assert len(talk.server.said) - before == limits.PULSE_OUTSTANDING
    talk.core.from_server(talk.server.answer(talk.server.said[-1]), talk.now)
    talk.pump()
    assert len(talk.server.said) - before == limits.PULSE_OUTSTANDING + 1


def test_commands_come_no_faster_than_the_limit():
    talk = Talk()
    burst = limits.PULSE_COMMANDS_BURST + 500
    talk.raw(b"".join(frames.command(C.STAT, tag) for tag in range(burst)))
    done = len(talk.unread)
    assert limits.PULSE_COMMANDS_BURST - 2 <= done <= limits.PULSE_COMMANDS_BURST
    assert talk.core.stalled
    talk.pass_time(500 / limits.PULSE_COMMANDS_PER_SECOND + 0.01)
    assert len(talk.unread) == burst


def test_a_sandbox_says_no_more_through_many_connections():
    talk = Talk()
    talks = [talk, *(Talk(sandbox=talk.sandbox) for _ in range(3))]
    for one in talks:
        burst = limits.PULSE_COMMANDS_BURST - 10
        one.raw(b"".join(frames.command(C.STAT, tag) for tag in range(burst)))
    done = sum(len(one.unread) for one in talks)
    most = limits.PULSE_SANDBOX_COMMANDS_BURST
    assert most - 20 <= done <= most + len(talks)


def test_streams_are_opened_no_faster_than_the_limit():
    talk = Talk()
    for _ in range(limits.PULSE_BIRTHS_BURST):
        channel, _ = talk.play()
        talk.ask(C.DELETE_PLAYBACK_STREAM, encode("L", [channel]))
    assert not talk.core.stalled
    talk.play()
    assert talk.core.stalled
    talk.pass_time(1 / limits.PULSE_BIRTHS_PER_SECOND + 0.01)
    assert not talk.core.stalled


def test_news_do_not_pile_up_for_who_does_not_read_them():
    talk = Talk()
    deaf = Talk(sandbox=talk.sandbox)
    deaf.ask(C.SUBSCRIBE, encode("L", [0x2FF]))
    most = 2 * limits.PULSE_QUEUE_BYTES
    for _ in range(most):
        talk.sandbox.announce(Facility.SINK_INPUT, ChangeKind.NEW, 1)
        if deaf.core.fault is not None:
            break
    assert isinstance(deaf.core.fault, PeerError)
    assert most < len(deaf.core.down.data) <= most + 100
    assert talk.core.fault is None


def test_a_client_that_does_not_read_is_not_answered_for_ever():
    talk = Talk()
    for tag in range(limits.PULSE_COMMANDS_BURST - 10):
        talk.core.from_client(frames.command(C.GET_SINK_INFO_LIST, tag), talk.now)
        if talk.core.stalled:
            break
    assert talk.core.stalled
    assert len(talk.core.down.data) < limits.PULSE_QUEUE_BYTES + 4096


def test_connections_of_a_sandbox_at_the_limit():
    first = Talk()
    rest = [Talk(sandbox=first.sandbox) for _ in range(limits.PULSE_CONNECTIONS - 1)]
    beyond = Talk(sandbox=first.sandbox, start=False)
    assert beyond.core.fault is not None
    beyond.core.close()
    rest[0].core.close()
    again = Talk(sandbox=first.sandbox)
    assert again.core.fault is None


def test_nothing_is_left_of_a_connection_that_ends():
    talk = Talk(MIC)
    talk.play()
    talk.record()
    talk.core.close()
    sandbox = talk.sandbox
    assert not sandbox.playbacks
    assert not sandbox.by_real
    assert not sandbox.recordings
    assert not sandbox.members
    assert sandbox.connections == 0
    assert not sandbox.active


@given(st.lists(st.binary(max_size=60), max_size=12))
def test_hostile_commands_end_the_connection_or_are_answered(bodies):
    talk = Talk(MIC)
    for number, body in enumerate(bodies):
        talk.say(number % 105, body)
    assert talk.core.fault is None or isinstance(talk.core.fault, PeerError)


@given(st.data())
def test_right_fields_with_any_values_never_crash(data):
    talk = Talk(MIC)
    talk.play()
    talk.record()
    for _ in range(5):
        command = data.draw(st.sampled_from(sorted(REQUESTS)))
        signature = REQUESTS[command].signature(35)
        values = [data.draw(VALUES[letter]) for letter in signature]
        if signature[:1] == "L" and data.draw(st.booleans()):
            values[0] = data.draw(st.sampled_from([0, 1, 2, 0x1000, INVALID]))
        talk.say(command, encode(signature, values))
    assert talk.core.fault is None or isinstance(talk.core.fault, PeerError)
    for said in talk.server.said:
        assert isinstance(said, Said)
        if said.command in REQUESTS and REQUESTS[said.command].parts:
            said.fields(REQUESTS[said.command].signature(35))

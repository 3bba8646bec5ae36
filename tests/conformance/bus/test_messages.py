"""Each message that a program of a sandbox sends: every field at its bounds and beyond.

The bounds are those of the structs; the worker decodes JSON of a program by them, and the
viewer what the worker passes on, because the worker may be taken over.
"""

from __future__ import annotations

import re
from itertools import product
from typing import get_args

import msgspec
import pytest
from msgspec import inspect

from broker.core.errors import PeerError
from broker.ipc.guest.daemons import FromDaemon, ToDaemon, decode_from_daemon
from broker.ipc.guest.file_requests import Ask, Reply, decode_ask
from broker.ipc.transfer import StreamSaid, TransferAsked

CHANNELS = [
    # The program's, the worker's decoder, and what carries it to the viewer.
    (FromDaemon, decode_from_daemon, StreamSaid, "message"),
    (Ask, decode_ask, TransferAsked, "ask"),
]
KINDS = [
    pytest.param(kind, channel, id=kind.__name__)
    for channel in CHANNELS
    for kind in get_args(channel[0])
]
LONGEST = 10_000
"""A text of this length is beyond each bound that is there."""


def text(kind, size):
    """A text of this length in the most bytes that its pattern allows; None: there is none."""
    letters = ["é" * size, "A" * size, "0" * size, "a" * size]
    found = [*letters, *(("a/" + "a" * (size - 2),) if size > 2 else ())]
    return next((one for one in found if re.search(kind.pattern or "", one)), None)


def edges(kind):
    """The smallest and the largest values of a type, and values that are beyond it."""
    match kind:
        case inspect.IntType(ge=least, le=most):
            assert None not in {least, most}, "a number without a bound"
            return [least, most], [least - 1, most + 1, None, 1.5, True, "1"]
        case inspect.BoolType():
            return [False, True], [0, 1, None, "true"]
        case inspect.LiteralType(values=values):
            return list(values), [None, 1, "", f"{values[0]}s"]
        case inspect.BytesType(max_length=most):
            return [b"", b"\xff" * most], [b"\xff" * (most + 1), None, 1, "!"]
        case inspect.StrType():
            most = LONGEST if kind.max_length is None else kind.max_length
            sizes = [n for n in range(most + 1) if text(kind, n) is not None]
            assert sizes[-1] < LONGEST, "a text without a bound"
            good = [text(kind, sizes[0]), text(kind, sizes[-1])]
            longer = text(kind, sizes[-1] + 1) or good[1] + good[1][-1]
            bad = [longer, None, 7, [good[1]]]
            # "$" matches before the last end of a line, too.
            lines = [f"{good[1][:-1]}\n", f"{good[1]}\n"] if kind.pattern else []
            return good, [*bad, *lines]
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            good, bad = edges(item)
            many = [[], [good[0]] * kind.max_length, *([one] for one in good)]
            beyond = [[good[0]] * (kind.max_length + 1), None, "x", {}]
            return many, [*beyond, *([one] for one in bad)]
        case inspect.TupleType(item_types=items):
            parts = [edges(item) for item in items]
            good = [list(row) for row in product(*(good for good, _ in parts))]
            bad = [good[0][:-1], [*good[0], *good[0]]]
            for place, (_, wrong) in enumerate(parts):
                bad += [[*good[0][:place], w, *good[0][place + 1 :]] for w in wrong]
            return good, bad
        case inspect.StructType(cls=cls):
            good, bad = messages(cls)
            return good, [*bad, None, [], "x"]
    raise AssertionError(f"{kind} has no edges here")


def messages(cls):
    """Messages with one field at a bound, and with one that is beyond it."""
    info = inspect.type_info(cls)
    parts = {field.encode_name: edges(field.type) for field in info.fields}
    whole = {name: good[0] for name, (good, _) in parts.items()}
    if info.tag_field:
        whole[info.tag_field] = info.tag
    taken, refused = [whole], [{**whole, "image": "/etc/passwd"}]
    for name, (good, bad) in parts.items():
        taken += [{**whole, name: value} for value in good]
        refused += [{**whole, name: value} for value in bad]
    for field in info.fields:
        short = {key: value for key, value in whole.items() if key != field.encode_name}
        (refused if field.required else taken).append(short)
    return taken, refused


def takers(message, channel):
    """Whether the worker takes a message, and whether the viewer does."""
    _, decode, carrier, place = channel
    carried = msgspec.structs.fields(carrier)
    assert [field.name for field in carried] == ["stream", place]
    sent = {"type": inspect.type_info(carrier).tag, "stream": 1, place: message}
    return (
        decodes(decode, msgspec.json.encode(message)),
        decodes(msgspec.msgpack.Decoder(carrier).decode, msgspec.msgpack.encode(sent)),
    )


def decodes(decode, body):
    try:
        decode(body)
    except (PeerError, msgspec.ValidationError):
        return False
    return True


@pytest.mark.parametrize(("kind", "channel"), KINDS)
def test_each_field_has_its_bounds(kind, channel):
    taken, refused = messages(kind)
    for message in taken:
        assert takers(message, channel) == (True, True), message
    for message in refused:
        assert takers(message, channel) == (False, False), message


@pytest.mark.parametrize(("kind", "channel"), KINDS)
def test_a_message_of_another_form_ends_the_connection(kind, channel):
    (whole, *_), _ = messages(kind)
    good, decode = msgspec.json.encode(whole), channel[1]
    for body in (b"", b"\xff", b"[]", b"[" * 10_000, good[:-1], good + b"{}"):
        assert not decodes(decode, body)
    assert takers({**whole, "type": "other"}, channel) == (False, False)


@pytest.mark.parametrize("decode", [decode_from_daemon, decode_ask])
@pytest.mark.parametrize("kind", get_args(ToDaemon) + get_args(Reply))
def test_no_program_sends_what_the_broker_does(kind, decode):
    tag = inspect.type_info(kind).tag
    for more in ({}, {"number": 1}, {"number": 1, "key": "x", "reason": 1}):
        assert not decodes(decode, msgspec.json.encode({"type": tag, **more}))

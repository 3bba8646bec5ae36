"""Messages of a guest's daemons: each field at its bounds, and of another type.

The bounds are those of the structs, for the worker that decodes JSON of a program and for
the viewer that decodes what the worker passes on.
"""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from msgspec import inspect

from broker.core.errors import PeerError
from broker.ipc.guest.daemons import FromDaemon, ToDaemon, decode_from_daemon
from broker.ipc.transfer import StreamSaid

KINDS: tuple[type[msgspec.Struct], ...] = get_args(FromDaemon)
FIELDS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in KINDS
    for field in inspect.type_info(kind).fields
]
_passed_on = msgspec.msgpack.Decoder(StreamSaid)


def of_size(kind, size):
    """A value of a field with this number, or length in characters, bytes or items."""
    match kind:
        case inspect.IntType():
            return size
        case inspect.StrType():
            return "é" * size
        case inspect.BytesType():
            return b"\xff" * size
        case inspect.ListType(item_type=item):
            return [of_size(item, 0)] * size
        case inspect.TupleType(item_types=items):
            return [of_size(item, size) for item in items]
    raise AssertionError(f"{kind} has no bounds here")


def bounds(kind):
    """The least and the greatest size of a field."""
    if isinstance(kind, inspect.IntType):
        return kind.ge, kind.le
    return kind.min_length or 0, kind.max_length


def whole(kind, **changes):
    """A message with the smallest value of each field."""
    info = inspect.type_info(kind)
    smallest = {
        field.encode_name: of_size(field.type, bounds(field.type)[0])
        for field in info.fields
    }
    return {info.tag_field: info.tag, **smallest, **changes}


def is_taken(message):
    """Whether the worker takes it; the viewer decides alike."""
    try:
        decode_from_daemon(msgspec.json.encode(message))
    except PeerError:
        taken = False
    else:
        taken = True
    said = {"type": "stream-said", "stream": 1, "message": message}
    try:
        _passed_on.decode(msgspec.msgpack.encode(said))
    except msgspec.ValidationError:
        assert not taken
    else:
        assert taken
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_another_form_ends_the_connection(kind):
    assert is_taken(whole(kind))
    assert not is_taken(whole(kind, image="/etc/passwd"))
    assert not is_taken(whole(kind, type="other"))
    good = msgspec.json.encode(whole(kind))
    for body in (b"", b"[]", b"[" * 10_000, good[:-1], good + b"{}"):
        with pytest.raises(PeerError):
            decode_from_daemon(body)


@pytest.mark.parametrize("kind", get_args(ToDaemon))
def test_no_program_sends_what_the_broker_does(kind):
    tag = inspect.type_info(kind).tag
    assert not is_taken({"type": tag, "number": 1, "key": "x", "reason": 1})


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_field_has_its_bounds(kind, field):
    least, most = bounds(field.type)
    assert None not in {least, most}, "a field without a bound"
    assert is_taken(whole(kind, **{field.encode_name: of_size(field.type, most)}))
    for size in {least - 1, most + 1} - {-1} if least else {most + 1}:
        beyond = {field.encode_name: of_size(field.type, size)}
        assert not is_taken(whole(kind, **beyond)), size


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_field_has_its_type(kind, field):
    for value in (None, 1.5, True, {}, [[]], "é", 7):
        of_type = isinstance(field.type, inspect.IntType) and value in (1, 7)
        of_type = of_type and value is not True
        of_type |= isinstance(field.type, inspect.StrType) and value == "é"
        if not of_type:
            assert not is_taken(whole(kind, **{field.encode_name: value})), value


def test_items_of_a_list_have_bounds_too():
    for kind in KINDS:
        for field in inspect.type_info(kind).fields:
            if isinstance(field.type, inspect.ListType):
                for item in field.type.item_type.item_types:
                    good = of_size(item, item.max_length)
                    row = [of_size(item, 0)] * len(field.type.item_type.item_types)
                    for place in range(len(row)):
                        row[place] = good
                        assert is_taken(whole(kind, **{field.encode_name: [row]}))
                        row[place] = good + "x"
                        assert not is_taken(whole(kind, **{field.encode_name: [row]}))
                        row[place] = good

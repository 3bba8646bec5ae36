"""The record format for editors (JSON Schema) and for people (Markdown).

Both are made from the tables of ``model``.  What JSON Schema cannot say (the
file's base name, printable text, sizes in bytes) only the check says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import singledispatch

from policy import limits
from policy.records import quantities
from policy.records.field_types import (
    MEMORY_FORM,
    NAME,
    Argument,
    Choice,
    Colour,
    Field,
    Kind,
    MemoryAmount,
    Pattern,
    SocketPath,
    Table,
    Title,
    Whole,
    WholeRange,
    Words,
)
from policy.records.globals import OPTIONS, USUAL
from policy.records.launch_table import LAUNCH, PEER
from policy.records.mounts.mount_tables import (
    DISK_FIELDS,
    MOUNT_FIELDS,
    DiskTables,
    MountPoint,
    MountTables,
)
from policy.records.patterns import PALETTE
from policy.records.record_schema import TABLES, TOP
from policy.services.record import FIELDS, SERVICE_NAME, ServiceTables

Schema = dict[str, object]


def schema() -> Schema:
    """Return the JSON Schema (draft 7, which TOML editors know) of a record."""
    top = _table_schema(TOP)
    properties = top["properties"]
    assert isinstance(properties, dict)
    for table in TABLES:
        if table.name:
            properties[table.name] = _table_schema(table)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Vitrail sandbox record (sandboxes.d/NAME.toml)",
        **top,
        **_kinds(),
    }


def _table_schema(table: Table) -> Schema:
    """Return the JSON Schema of a table of records."""
    required = [field.key for field in table.fields if field.required]
    made: Schema = {
        "type": "object",
        "description": table.summary,
        "additionalProperties": False,
        "properties": {field.key: _field_schema(field) for field in table.fields},
    }
    if required:
        made["required"] = required
    if table is PEER:
        made |= {"minProperties": 1, "maxProperties": 1}
    if table.short:
        word = kind_schema(table.by_key[table.short].kind)
        return {"description": table.summary, "anyOf": [word, made]}
    return made


def _field_schema(field: Field) -> Schema:
    made: Schema = {"description": field.summary, **kind_schema(field.kind)}
    if field.default is not None:
        made["default"] = field.default
    return made


@singledispatch
def kind_schema(kind: Kind) -> Schema:
    """Return the JSON Schema of a kind's values.

    Raises TypeError for a kind that has none.  Ranges of amounts in text, sizes in bytes
    and printable characters are checked by the kind only.
    """
    raise TypeError(f"no schema for {type(kind).__name__}")


@kind_schema.register
def _choice(kind: Choice) -> Schema:
    return _described(kind.options)


@kind_schema.register
def _global_name(kind: quantities.GlobalName) -> Schema:
    risks = {**USUAL, **OPTIONS}
    return _described({name: risks[name] for name in kind.names})


def _described(options: Mapping[str, str]) -> Schema:
    return {"oneOf": [_word(*option) for option in options.items()]}


def _word(option: str, text: str) -> Schema:
    form = option.replace("NAME", NAME)
    key = "const" if form == option else "pattern"
    return {key: option if form == option else f"^{form}$", "description": text}


@kind_schema.register
def _whole(kind: Whole) -> Schema:
    return {"type": "integer", "minimum": kind.low, "maximum": kind.high}


@kind_schema.register
def _whole_range(kind: WholeRange) -> Schema:
    del kind
    return {"type": "string", "pattern": "^[1-9][0-9]{0,9}-[1-9][0-9]{0,9}$"}


@kind_schema.register
def _memory(kind: MemoryAmount) -> Schema:
    return _amount(kind, MEMORY_FORM)


@kind_schema.register
def _bytes(kind: quantities.Bytes) -> Schema:
    return _amount(kind, quantities.BYTES_FORM)


def _amount(kind: MemoryAmount | quantities.Bytes, form: str) -> Schema:
    """Return the JSON Schema of an amount: a number, or text of a form."""
    return {
        "oneOf": [
            {"type": "integer", "minimum": kind.low, "maximum": kind.high},
            {"type": "string", "pattern": f"^(?:{form})$"},
        ]
    }


@kind_schema.register
def _seconds(kind: quantities.Seconds) -> Schema:
    del kind
    return {"type": "string", "pattern": f"^(?:{quantities.TIME_FORM})$"}


@kind_schema.register
def _yes_no(kind: quantities.YesNo) -> Schema:
    del kind
    return {"type": "boolean"}


@kind_schema.register
def _pattern(kind: Pattern) -> Schema:
    return {
        "type": "string",
        "pattern": f"^(?:{kind.regex})$",
        "maxLength": kind.max_length,
    }


@kind_schema.register
def _title(kind: Title) -> Schema:
    return {
        "type": "string",
        "pattern": "^\\S(.*\\S)?$",
        "maxLength": kind.max_length,
    }


@kind_schema.register
def _colour(kind: Colour) -> Schema:
    """Return the JSON Schema of a colour."""
    return {
        "anyOf": [
            {"enum": list(kind.palette)},
            {"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"},
        ]
    }


@kind_schema.register
def _socket_path(kind: SocketPath) -> Schema:
    return {"type": "string", "pattern": "^/.*[^/]$", "maxLength": kind.max_bytes}


@kind_schema.register
def _argument(kind: Argument) -> Schema:
    del kind
    return {"type": "string", "maxLength": limits.COMMAND_BYTES - 1}


@kind_schema.register
def _words(kind: Words) -> Schema:
    """Return the JSON Schema of a list of words."""
    return {
        "type": "array",
        "items": kind_schema(kind.item),
        "minItems": kind.low,
        "maxItems": kind.high,
        **({"uniqueItems": True} if kind.unique else {}),
    }


@kind_schema.register
def _services(kind: ServiceTables) -> Schema:
    """Return the JSON Schema of the tables of services."""
    del kind
    keys = {f.key: {"description": f.summary, **kind_schema(f.kind)} for f in FIELDS}
    return {
        "type": "object",
        "maxProperties": limits.SERVICES,
        "propertyNames": kind_schema(SERVICE_NAME),
        "additionalProperties": {
            "type": "object",
            "required": ["command"],
            "additionalProperties": False,
            "properties": keys,
        },
    }


@kind_schema.register
def _mounts(kind: MountTables) -> Schema:
    del kind
    return _tables(MOUNT_FIELDS, limits.MOUNTS)


@kind_schema.register
def _disks(kind: DiskTables) -> Schema:
    del kind
    return _tables(DISK_FIELDS, limits.DISKS)


def _tables(fields: tuple[Field, ...], most: int) -> Schema:
    """Return the JSON Schema of an array of tables."""
    return {
        "type": "array",
        "maxItems": most,
        "items": {
            "type": "object",
            "required": [field.key for field in fields if field.required],
            "additionalProperties": False,
            "properties": {field.key: _field_schema(field) for field in fields},
        },
    }


@kind_schema.register
def _mount_point(kind: MountPoint) -> Schema:
    del kind
    return {
        "type": "string",
        "pattern": r"^/[^:,\\]*[^/:,\\]$",
        "maxLength": limits.BIND_PATH_BYTES,
    }


def _kinds() -> Schema:
    """Return the JSON Schema of which tables go with which kind of record.

    If a record inherits, the kind may be in another file.
    """
    shared: Schema = {field.key: {} for field in LAUNCH.fields if not field.only}
    external = {
        "required": ["launch"],
        "properties": {
            "launch": {
                "required": ["kind"],
                "properties": {"kind": {"const": PEER.only[0]}},
            }
        },
    }
    return {
        "if": external,
        "then": {
            "required": ["peer"],
            "properties": {
                "launch": {"properties": shared, "additionalProperties": False}
            },
        },
        "else": {
            "if": {"required": ["inherits"]},
            "else": {"properties": {"peer": False}},
        },
    }


def reference() -> str:
    """Return the reference of every key, in Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    """Yield the lines of the Markdown reference of all tables."""
    for table in TABLES:
        yield f"### `[{table.name}]`" if table.name else "### Top of the file"
        yield ""
        yield table.summary
        if table.only:
            yield f"Only with `launch.kind` {_kind_words(table)}."
        yield ""
        for field in table.fields:
            yield from _field_lines(field)
    yield "### Colours"
    yield ""
    yield "| name | value |"
    yield "| --- | --- |"
    for name, value in PALETTE.items():
        yield f"| `{name}` | `{value}` |"


def _field_lines(field: Field) -> Iterator[str]:
    """Yield the lines of the Markdown reference of one key."""
    yield f"#### `{field.key}`"
    yield ""
    yield field.summary
    yield ""
    if isinstance(field.kind, Choice):
        for option, text in field.kind.options.items():
            yield f'* `"{option}"`: {text}'
        yield f"* default: {_default(field)}"
    else:
        words = field.kind.words
        if isinstance(field.kind, (quantities.Bytes, quantities.Seconds, MemoryAmount)):
            # docs/policy.md has the ways to write an amount once, before the tables.
            words = field.kind.range_words
        yield f"* {words}; default: {_default(field)}"
    if field.only:
        yield f"* only with `launch.kind` {_kind_words(field)}"
    yield ""


def _kind_words(part: Table | Field) -> str:
    return ", ".join(f"`{kind}`" for kind in part.only)


def _default(field: Field) -> str:
    if field.required:
        return "none; the key must be set"
    if field.default is None:
        return field.default_words or "not set"
    return f"`{json.dumps(field.default)}`"

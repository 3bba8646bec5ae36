"""The record format for editors (JSON Schema) and for people (Markdown).

Both are made from the tables of ``model``.  What JSON Schema cannot say (the
file's base name, printable text, sizes in bytes) only the check says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from policy.records.field_types import Choice, Field, Schema, Table
from policy.records.launch_table import LAUNCH, PEER
from policy.records.patterns import PALETTE
from policy.records.record_schema import TABLES, TOP


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
        word = table.by_key[table.short].kind.schema()
        return {"description": table.summary, "anyOf": [word, made]}
    return made


def _field_schema(field: Field) -> Schema:
    made: Schema = {"description": field.summary, **field.kind.schema()}
    if field.default is not None:
        made["default"] = field.default
    return made


def _kinds() -> Schema:
    """[peer] belongs to external sandboxes, most of [launch] to our own.

    Where a record inherits, the kind may stand in another file.
    """
    shared: Schema = {field.key: {} for field in LAUNCH.fields if not field.only}
    external = {
        "required": ["launch"],
        "properties": {
            "launch": {
                "required": ["kind"],
                "properties": {"kind": {"const": PEER.only}},
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
    for table in TABLES:
        yield f"### `[{table.name}]`" if table.name else "### Top of the file"
        yield ""
        yield table.summary
        if table.only:
            yield f"Only with `launch.kind` = {_kind_words(table)}."
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
    yield f"#### `{field.key}`"
    yield ""
    yield field.summary
    yield ""
    if isinstance(field.kind, Choice):
        for option, text in field.kind.options.items():
            yield f'* `"{option}"`: {text}'
    else:
        yield f"* value: {field.kind.words}"
    yield f"* default: {_default(field)}"
    if field.only:
        yield f"* only with `launch.kind` = {_kind_words(field)}"
    yield ""


def _kind_words(part: Table | Field) -> str:
    return " or ".join(f'`"{kind}"`' for kind in (part.only, *part.also))


def _default(field: Field) -> str:
    if field.required:
        return "none, it must be set"
    if field.default is None:
        return field.default_words or "not set"
    return f"`{json.dumps(field.default)}`"

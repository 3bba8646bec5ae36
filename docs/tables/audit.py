"""The events' schema for programs (JSON Schema) and for people (Markdown).

Made from the structs of ``schema`` and the texts beside their fields.

    python -m docs.tables.audit > broker/data/schema/audit-event.json
    python -m docs.tables.audit --markdown   # between the marks in docs/audit.md
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from functools import cache

import msgspec

from broker.ipc.audit import schema
from broker.ipc.audit.event import Event

# Kinds and their properties get a line each, what a property is does not.
_DEEPEST = 3
_TITLE = f"An event of Vitrail's audit log, version {schema.VERSION}"


def json_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 7) of one event."""
    made = msgspec.json.schema(schema.AnyEvent)
    definitions = made.pop("$defs")
    shared: dict[str, object] = {}
    for kind in _kinds():
        described = definitions[kind.__name__]
        described["description"] = _summary(kind)
        properties = described["properties"]
        for name, text in _texts(kind).items():
            properties[name]["description"] = text
        for name, text in _texts(Event).items():
            shared[name] = {**properties[name], "description": text}
            properties[name] = {"$ref": f"#/$defs/Event/properties/{name}"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": _TITLE,
        **made,
        "$defs": {"Event": {"properties": shared}, **definitions},
    }


def json_text() -> str:
    """The JSON Schema as it is shipped: a line for each property."""
    return _printed(json_schema(), 0) + "\n"


def _printed(value: object, depth: int) -> str:
    if depth > _DEEPEST or not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner, end = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, list):
        lines = [_printed(item, _DEEPEST + 1) for item in value]
        return f"[{inner}{f',{inner}'.join(lines)}{end}]"
    lines = [f"{json.dumps(k)}: {_printed(v, depth + 1)}" for k, v in value.items()]
    return f"{{{inner}{f',{inner}'.join(lines)}{end}}}"


def markdown() -> str:
    """The tables of the manual: what every event has, and each kind's own."""
    common = _texts(Event)
    lines = ["| field | meaning |", "| --- | --- |", "| `kind` | see below |"]
    lines += [f"| `{name}` | {_cell(text)} |" for name, text in common.items()]
    lines += ["", "| kind | when | further fields |", "| --- | --- | --- |"]
    for kind in _kinds():
        fields = "; ".join(
            f"`{name}` {text[0].lower() + text[1:]}".rstrip(".")
            if text
            else f"`{name}`"
            for name, text in _own(kind).items()
        )
        tag = kind.__struct_config__.tag
        lines.append(f"| `{tag}` | {_cell(_summary(kind))} | {_cell(fields)} |")
    return "\n".join(lines) + "\n"


def _kinds() -> Iterator[type[Event]]:
    yield from schema.AnyEvent.__args__


def _own(kind: type[Event]) -> dict[str, str]:
    """The fields that only this kind has, each with its text or without."""
    texts = _texts(kind)
    names = (name for name in kind.__struct_fields__ if name in kind.__annotations__)
    return {name: texts.get(name, "") for name in names}


def _texts(kind: type[Event]) -> dict[str, str]:
    """Field to the text that follows it in the source."""
    texts: dict[str, str] = {}
    name = ""
    for line in _classes(kind.__module__)[kind.__name__].body:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                texts[name] = _one_line(text)
                name = ""
            case _:
                name = ""
    return texts


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes of a module by name: it is large, and is read once for all kinds."""
    body = ast.parse(inspect.getsource(sys.modules[module])).body
    return {found.name: found for found in body if isinstance(found, ast.ClassDef)}


def _summary(kind: type[Event]) -> str:
    return _one_line(kind.__doc__ or "")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("``", "`")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(markdown() if "--markdown" in sys.argv else json_text())

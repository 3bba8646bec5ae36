"""Compare a released promise with the present version; each problem is one line of text.

A promise is kept if a program, file or script that was written for the release works
with the present version: something may be added, nothing may go away or become stricter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_DECLARATION = re.compile(r"^(type|method|error) (\w+) ?(.*)", re.DOTALL | re.MULTILINE)
_PAIR = re.compile(r"(\w+): ([\[\]?\w]+)")
_LOWEST = ("minimum", "minLength", "minItems")
_HIGHEST = ("maximum", "maxLength", "maxItems")
Json = Any


def compare_documents(frozen: Json, present: Json, path: str) -> Iterator[str]:
    """Yield the keys and types of a sample document that the present one lacks."""
    if isinstance(frozen, dict) and isinstance(present, dict):
        for key, value in frozen.items():
            if key not in present:
                yield f"{path}.{key} is gone"
            else:
                yield from compare_documents(value, present[key], f"{path}.{key}")
    elif isinstance(frozen, list) and isinstance(present, list):
        if frozen and not present:
            yield f"{path}[] has no element any more"
        for value, other in zip(frozen, present, strict=False):
            yield from compare_documents(value, other, f"{path}[]")
    elif frozen is not None and present is not None and _kind(frozen) != _kind(present):
        yield f"{path} was {_kind(frozen)}, and is {_kind(present)}"


def _kind(value: Json) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return {"dict": "an object", "list": "an array", "str": "text"}.get(
        type(value).__name__, "null"
    )


def compare_values(frozen: Json, present: Json, path: str) -> Iterator[str]:
    """Yield the values of the release that are other ones or gone."""
    if isinstance(frozen, dict) and isinstance(present, dict):
        for key, value in frozen.items():
            if key not in present:
                yield f"{path}.{key} is gone"
            else:
                yield from compare_values(value, present[key], f"{path}.{key}")
    elif isinstance(frozen, list) and isinstance(present, list):
        if len(frozen) != len(present):
            yield f"{path} was {frozen}, and is {present}"
            return
        for number, (value, other) in enumerate(zip(frozen, present, strict=True)):
            yield from compare_values(value, other, f"{path}[{number}]")
    elif frozen != present:
        yield f"{path} was {frozen!r}, and is {present!r}"


def compare_lists(frozen: Json, present: Json, path: str) -> Iterator[str]:
    """Yield the words, in lists below names, that are gone."""
    if isinstance(frozen, dict):
        for key, value in frozen.items():
            if key in present:
                yield from compare_lists(value, present[key], f"{path} '{key}'")
            else:
                yield f"{path} '{key}' is gone"
    else:
        for item in set(frozen) - set(present):
            yield f"{path} '{item}' is gone"


def compare_schemas(frozen: Json, present: Json, path: str) -> Iterator[str]:
    """Yield the keys, choices, bounds and defaults that a JSON Schema no longer has."""
    if not isinstance(frozen, dict) or not isinstance(present, dict):
        return
    for name in ("properties", "$defs", "patternProperties"):
        for key, value in frozen.get(name, {}).items():
            if key not in present.get(name, {}):
                yield f"{path}.{key} is gone"
            else:
                other = present[name][key]
                yield from compare_schemas(value, other, f"{path}.{key}")
    yield from _compare_choices(frozen, present, path)
    if frozen.get("default") != present.get("default"):
        old, new = frozen.get("default"), present.get("default")
        yield f"{path}: the default was {old!r}, and is {new!r}"
    yield from _compare_bounds(frozen, present, path)
    for key in set(present.get("required", ())) - set(frozen.get("required", ())):
        yield f"{path}.{key} could be left out, and is required"
    if "items" in frozen:
        yield from compare_schemas(frozen["items"], present.get("items"), f"{path}[]")


def _choices(schema: Mapping[str, Json]) -> tuple[set[str], set[str]]:
    """Return the fixed values of a schema, and the types of others."""
    rows = [*schema.get("oneOf", ()), *schema.get("anyOf", ()), schema]
    values = {repr(row["const"]) for row in rows if "const" in row}
    values |= {repr(value) for row in rows for value in row.get("enum", ())}
    types: set[str] = set()
    for row in rows:
        kind = row.get("type", ())
        types |= {kind} if isinstance(kind, str) else set(kind)
    return values, types


def _compare_choices(frozen: Json, present: Json, path: str) -> Iterator[str]:
    old_values, old_types = _choices(frozen)
    new_values, new_types = _choices(present)
    for value in sorted(old_values - new_values):
        if "string" not in new_types or not value.startswith("'"):
            yield f"{path}: the value {value} is gone"
    if old_types and not new_types:
        return
    for kind in sorted(old_types - new_types - {"object"}):
        if not (kind == "integer" and "number" in new_types):
            yield f"{path} was of the type {kind}, and is not any more"


def _compare_bounds(frozen: Json, present: Json, path: str) -> Iterator[str]:
    for name in _LOWEST:
        if name in present and present[name] > frozen.get(name, present[name] - 1):
            yield f"{path}: {name} was {frozen.get(name)}, and is {present[name]}"
    for name in _HIGHEST:
        if name in present and present[name] < frozen.get(name, present[name] + 1):
            yield f"{path}: {name} was {frozen.get(name)}, and is {present[name]}"


# -- varlink ---------------------------------------------------------------------------


class Interface(NamedTuple):
    """An interface: of each method, type and error the fields by name."""

    requests: dict[str, dict[str, str]]
    replies: dict[str, dict[str, str]]
    types: dict[str, dict[str, str]]
    errors: dict[str, dict[str, str]]


def parse_interface(text: str) -> Interface:
    """Return the declarations of a varlink interface description."""
    interface = Interface({}, {}, {}, {})
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in plain.split("\n\n"):
        match = _DECLARATION.search(block)
        if match is None:
            continue
        kind, name, body = match.groups()
        if kind == "method":
            request, _, reply = body.partition("->")
            interface.requests[name] = dict(_PAIR.findall(request))
            interface.replies[name] = dict(_PAIR.findall(reply))
        elif kind == "type":
            interface.types[name] = dict(_PAIR.findall(body))
        else:
            interface.errors[name] = dict(_PAIR.findall(body))
    return interface


def compare_interfaces(frozen: str, present: str) -> Iterator[str]:
    """Yield what a client of the released interface would miss or lack."""
    old, new = parse_interface(frozen), parse_interface(present)
    for part in Interface._fields:
        released, after = getattr(old, part), getattr(new, part)
        for name, fields in released.items():
            if name not in after:
                yield f"varlink: {part} {name} is gone"
                continue
            for field, kind in fields.items():
                now = after[name].get(field, "")
                loosened = part == "requests" and now == f"?{kind}"
                if now != kind and not loosened:
                    yield f"varlink: {part} {name}.{field} was {kind}, and is {now or 'gone'}"
    used = _types_of_requests(old)
    for name, fields in (old.requests | {n: old.types[n] for n in used}).items():
        after = new.requests.get(name) or new.types.get(name, {})
        for field in after.keys() - fields.keys():
            if not after[field].startswith("?"):
                yield f"varlink: {name}.{field} is new, and old clients do not send it"


def _types_of_requests(interface: Interface) -> set[str]:
    """Return the types that clients send."""
    names: set[str] = set()
    waiting = [
        kind for fields in interface.requests.values() for kind in fields.values()
    ]
    while waiting:
        name = waiting.pop().lstrip("?[]").removeprefix("string]")
        if name in interface.types and name not in names:
            names.add(name)
            waiting += interface.types[name].values()
    return names

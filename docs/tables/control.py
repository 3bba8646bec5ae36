"""Write ``io.vitrail.Broker.varlink`` from the table of methods.

    python -m docs.tables.control      rewrites broker/data/io.vitrail.Broker.varlink

Names, parameters and types come from the table (``methods.py``) and from the structs
that it names; the file keeps its comments, and a new declaration gets the row's
summary, or the first line of its docstring.  A test compares the file with this module's text.  (Source:
varlink.org, "Interface Definition".)
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from pathlib import Path

import msgspec

import broker
from broker.ipc.control.api import INTERFACE
from broker.ipc.control.methods import TABLE
from broker.ipc.control.varlink import FAILED, NOT_FOUND, REFUSED, ErrorParameters
from broker.ipc.control.varlink_service import interface_description

_WIDTH = 80
_PLAIN = {str: "string", bytes: "string", int: "int", float: "float", bool: "bool"}
_DECLARED = re.compile(r"^(type|method|error) (\w+)", re.MULTILINE)


def in_varlink(annotation: object) -> str:
    """Return a type as it is written in varlink."""
    if isinstance(annotation, types.UnionType):
        (inner,) = set(typing.get_args(annotation)) - {type(None)}
        return "?" + in_varlink(inner)
    if typing.get_origin(annotation) is list:
        return "[]" + in_varlink(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is dict:
        return "[string]" + in_varlink(typing.get_args(annotation)[1])
    assert isinstance(annotation, type)
    return _PLAIN.get(annotation) or annotation.__name__


def fields_of(struct: type[msgspec.Struct]) -> list[str]:
    """Return the fields of a struct, each as ``name: type``."""
    hints = typing.get_type_hints(struct)
    return [f"{name}: {in_varlink(hints[name])}" for name in struct.__struct_fields__]


def structs_within(struct: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """Return the structs that the fields of one name, deepest first."""
    found: list[type[msgspec.Struct]] = []
    waiting: list[object] = list(typing.get_type_hints(struct).values())
    while waiting:
        annotation = waiting.pop(0)
        waiting += typing.get_args(annotation)
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
            found += [*structs_within(annotation), annotation]
    return found


def declarations() -> dict[tuple[str, str], tuple[str, str]]:
    """Return kind and name of each declaration, with its text and its docstring."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for row in TABLE.values():
        for struct in [*structs_within(row.request), *structs_within(row.answer)]:
            name = struct.__name__
            found["type", name] = (_type(name, fields_of(struct)), _first_line(struct))
    for row in TABLE.values():
        text = _method(row.name, fields_of(row.request), fields_of(row.answer))
        found["method", row.name] = (text, row.summary)
    for error in (REFUSED, FAILED, NOT_FOUND):
        name = error.removeprefix(f"{INTERFACE}.")
        text = f"error {name} ({', '.join(fields_of(ErrorParameters))})"
        found["error", name] = (text, "")
    return found


def describe(present: str) -> str:
    """Return the description; comments and order are those of ``present``."""
    wanted = declarations()
    blocks: dict[tuple[str, str], str] = {}
    head, *rest = present.rstrip("\n").split("\n\n")
    for block in rest:
        match = _DECLARED.search(block)
        key = (match[1], match[2]) if match else ("", "")
        if match and key in wanted:
            blocks[key] = block[: match.start()] + wanted[key][0]
    for key, (text, doc) in wanted.items():
        blocks.setdefault(key, (f"# {doc}\n" if doc else "") + text)
    ordered = [
        block
        for kind in ("type", "method", "error")
        for key, block in blocks.items()
        if key[0] == kind
    ]
    return "\n\n".join([head, *ordered]) + "\n"


def _type(name: str, fields: list[str]) -> str:
    return f"type {name} ({_lines(fields)})"


def _method(name: str, takes: list[str], gives: list[str]) -> str:
    head = f"method {name}({', '.join(takes)}) -> "
    whole = f"{head}({', '.join(gives)})"
    if len(whole) <= _WIDTH:
        return whole
    if len(head) < _WIDTH:
        return f"{head}({_lines(gives)})"
    back = f"({', '.join(gives)})"
    if len(back) > _WIDTH // 2:
        back = f"({_lines(gives)})"
    return f"method {name}({_lines(takes)}) -> {back}"


def _lines(fields: list[str]) -> str:
    return "\n" + ",\n".join(f"  {field}" for field in fields) + "\n"


def _first_line(subject: object) -> str:
    return (inspect.getdoc(subject) or "").partition("\n")[0].replace("``", "")


def main() -> None:
    """Rewrite the file beside this package."""
    path = Path(broker.__file__).parent / "data" / f"{INTERFACE}.varlink"
    path.write_text(describe(interface_description()), encoding="utf-8")


if __name__ == "__main__":
    main()

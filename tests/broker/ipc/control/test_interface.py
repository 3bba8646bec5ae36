"""The interface description and the types say the same."""

from __future__ import annotations

import re

import msgspec
import pytest

from broker.ipc.control import api, methods
from broker.ipc.control.varlink import ErrorParameters
from broker.ipc.control.varlink_service import interface_description
from docs.tables.control import describe, fields_of, in_varlink

TEXT = re.sub(r"#.*", "", interface_description())
TYPES = {
    name: getattr(api, name) for name in re.findall(r"^type (\w+)", TEXT, re.MULTILINE)
}


def written(body: str) -> list[str]:
    return [part.strip() for part in body.split(",") if part.strip()]


def test_types() -> None:
    assert len(TYPES) == 26
    found = dict(re.findall(r"type (\w+)\s*\((.*?)\)", TEXT, re.DOTALL))
    assert {name: written(body) for name, body in found.items()} == {
        name: fields_of(struct) for name, struct in TYPES.items()
    }


def test_methods() -> None:
    pattern = r"method (\w+)\s*\((.*?)\)\s*->\s*\((.*?)\)"
    found = {
        name: (written(takes), written(gives))
        for name, takes, gives in re.findall(pattern, TEXT, re.DOTALL)
    }
    assert found == {
        name: (fields_of(row.request), fields_of(row.answer))
        for name, row in methods.TABLE.items()
    }


def test_the_description_is_that_of_the_table() -> None:
    """``python -m docs.tables.control`` writes it."""
    assert describe(interface_description()) == interface_description()


def test_a_method_that_the_description_lacks_comes_with_its_docstring() -> None:
    text = interface_description()
    without = re.sub(r"# Answer a question.*?-> \(\)\n\n", "", text, flags=re.DOTALL)
    without += "\nmethod Gone() -> ()\n"
    assert "method Answer(" in text
    assert "method Answer(" not in without
    again = describe(without)
    assert "# Answer a question on behalf of the user.\nmethod Answer(" in again
    assert "Gone" not in again


def test_errors() -> None:
    found = dict(re.findall(r"error (\w+)\s*\((.*?)\)", TEXT, re.DOTALL))
    assert set(found) == {"Refused", "Failed", "NotFound"}
    for body in found.values():
        assert written(body) == fields_of(ErrorParameters)


def test_a_request_field_may_be_left_out_exactly_if_it_may_be_null() -> None:
    for row in methods.TABLE.values():
        for field in msgspec.structs.fields(row.request):
            nullable = in_varlink(field.type).startswith("?")
            assert nullable is (not field.required), (row.name, field.name)


def test_another_programs_parser_reads_it() -> None:
    scanner = pytest.importorskip("varlink").Interface(interface_description())
    assert scanner.name == api.INTERFACE

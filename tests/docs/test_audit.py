"""The shipped schema and the reference in the docs are current, and true."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import fastjsonschema
import pytest

from broker.ipc.audit import schema
from docs.tables.audit import json_schema, json_text, markdown

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", name="validate")
def _validate():
    return fastjsonschema.compile(json_schema(), use_default=False)


def test_the_shipped_schema_is_current() -> None:
    """Mend with: python -m docs.tables.audit > (that file)."""
    shipped = ROOT / "broker" / "data" / "schema" / "audit-event.json"
    assert shipped.read_text() == json_text()
    assert json.loads(json_text()) == json_schema()


def test_the_reference_in_the_docs_is_current() -> None:
    """Mend with: python -m docs.tables.audit --markdown, between the marks."""
    text = (ROOT / "docs" / "audit.md").read_text()
    begin, end = "<!-- reference: begin -->\n", "<!-- reference: end -->"
    assert text.split(begin)[1].split(end)[0].strip() == markdown().strip()


def test_events_of_both_versions_are_valid(validate) -> None:
    recorded = ROOT / "tests" / "corpus" / "audit" / "v1.sqlite"
    db = sqlite3.connect(f"file:{recorded}?immutable=1", uri=True)
    bodies = [body for (body,) in db.execute("SELECT body FROM event")]
    db.close()
    assert len(bodies) == 289
    new = schema.encode(
        schema.ClipboardPasted(
            version=2, sequence=1, target="mail", mime="text/plain", bytes=12
        )
    )
    for body in (*bodies, new):
        validate(json.loads(body))


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "moon.landed"},
        {"kind": "broker.stop", "content": "secret"},
        {"kind": "decision", "verdict": "perhaps"},
        {"kind": "stream.closed", "bytes_from_sandbox": 1},
    ],
)
def test_a_malformed_event_is_not_valid(validate, event) -> None:
    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate(event)


def test_every_kind_and_field_is_explained() -> None:
    text = markdown()
    for kind in schema.AnyEvent.__args__:
        assert f"| `{kind.__struct_config__.tag}` | " in text
        for name in kind.__struct_fields__:
            assert f"`{name}`" in text

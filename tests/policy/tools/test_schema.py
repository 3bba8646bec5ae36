"""The shipped schema, the reference in the docs and the examples are current."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import asdict
from pathlib import Path

import fastjsonschema
import pytest
from hypothesis import given

from policy.records.device_json import device_json
from policy.rules.engine import Engine
from policy.tools.explain import answer_json
from policy.tools.files_in_memory import rules_of_map
from policy.tools.qubes.world_json import WorldError, world_from_json
from policy.tools.record_files import load_files, parse_record
from policy.tools.schemas.schema import reference, schema
from policy.tools.schemas.schema_calls import SCHEMAS, text_of
from tests.policy import strategies

ROOT = Path(__file__).parent.parent.parent.parent
CORPUS = ROOT / "tests" / "corpus" / "policy"
DATA = ROOT / "broker" / "data"
EXAMPLES = sorted((DATA / "sandboxes.d").glob("*.toml"))
DOCS = ROOT / "docs" / "policy.md"

# What JSON Schema cannot say; see docs/policy.md.
_ONLY_THE_CHECK = {
    "hidden",
    "bom",
    "audio-silent",
    "inherits-itself",
    "window-strip",
    "flatpak-no-app",
}


_VALID = {
    name: fastjsonschema.compile(make(), use_default=False)
    for name, make in SCHEMAS.items()
}


@pytest.fixture(scope="module", name="validate")
def _validate():
    return fastjsonschema.compile(schema(), use_default=False)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_shipped_schemas_are_current(name):
    """Mend with: brokerctl policy schema NAME > broker/data/schema/NAME.json."""
    assert (DATA / "schema" / f"{name}.json").read_text() == text_of(name)


@given(strategies.policies(6), strategies.worlds(), strategies.calls)
def test_calls_and_answers_are_as_their_schemas_say(text, world, call):
    """Inputs and results."""
    asked = {k: v for k, v in call._asdict().items() if v is not None}
    if call.device is not None:
        asked["device"] = device_json(call.device)
    domains = {name: asdict(d) | {"tags": sorted(d.tags)} for name, d in world.domains.items()}  # fmt: skip
    for domain in domains.values():
        del domain["name"]
    asked |= {"policy": {"1.policy": text}, "world": {"domains": domains}}
    _VALID["call"](asked)
    _VALID["world"](asked["world"])
    assert world_from_json(asked["world"]) == world
    answer = Engine(rules_of_map(asked["policy"])).answer(call, world)
    _VALID["answer"](json.loads(json.dumps(answer_json(answer))))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"domains": []},
        {"domains": {"a": 1}},
        {"domains": {"a": {"type": 1}}},
        {"domains": {"a": {"tags": "x"}}},
        {"domains": {"a": {"tags": [1]}}},
        {"domains": {"a": {"internal": "no"}}},
        {"domains": {"a": {"uuid": 1}}},
    ],
)
def test_an_invalid_world_is_invalid_by_the_schema_too(data):
    """The schema and the reader agree."""
    with pytest.raises(fastjsonschema.JsonSchemaException):
        _VALID["world"](data)
    with pytest.raises(WorldError):
        world_from_json(data)


def test_the_household_is_a_world():
    """And says where its schema is."""
    file = DATA / "policy.d" / "household.json"
    data = json.loads(file.read_text())
    _VALID["world"](data)
    assert (file.parent / data["$schema"]).resolve() == DATA / "schema" / "world.json"


def test_the_reference_in_the_docs_is_current():
    """Mend with: brokerctl policy schema --markdown, between the two marks."""
    text = DOCS.read_text()
    begin, end = "<!-- reference: begin -->\n", "<!-- reference: end -->"
    assert text.split(begin)[1].split(end)[0].strip() == reference().strip()


@pytest.mark.parametrize(
    "file", [*(CORPUS / "good").glob("*.toml"), *EXAMPLES], ids=lambda file: file.stem
)
def test_good_records_validate(validate, file):
    """An outside validator takes every record that the check takes."""
    validate(tomllib.loads(file.read_text()))


def _valid_toml():
    for file in sorted((CORPUS / "bad").glob("*.toml")):
        try:
            values = tomllib.loads(file.read_bytes().decode())
        except ValueError:
            continue
        if file.stem not in _ONLY_THE_CHECK:
            yield pytest.param(values, id=file.stem)


@pytest.mark.parametrize("values", list(_valid_toml()))
def test_bad_records_do_not_validate(validate, values):
    """A record that is valid TOML and still refused, an editor refuses as well."""
    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate(values)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_records_that_name_their_schema(file):
    """They check clean, and the first line leads an editor to the schema."""
    record, problems = parse_record(file.stem, file, file.read_bytes())
    assert problems == []
    assert record is not None
    first = file.read_text().split("\n", 1)[0]
    assert first.startswith("#:schema ")
    target = file.parent / first.removeprefix("#:schema ")
    assert json.loads(target.read_text()) == schema()


def test_examples_differ_in_colour():
    """Three windows beside each other must be told apart."""
    colours = {
        record.viewer.label.colour
        for file in EXAMPLES
        if (record := parse_record(file.stem, file, file.read_bytes())[0])
    }
    assert len(colours) == len(EXAMPLES)


def test_snippets_in_the_docs_are_records(tmp_path):
    """Each TOML block of the docs checks clean; a comment may name its file."""
    snippets = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert snippets
    files = []
    for number, snippet in enumerate(snippets):
        named = re.match(r"# ([a-z]+)\.toml\n", snippet)
        file = tmp_path / f"{named[1] if named else f'snippet-{number}'}.toml"
        file.write_text(snippet)
        files.append(file)
    assert load_files(files).problems == ()


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        ({"class": "disposable"}, True),
        ({}, False),
        ({"class": "disposable", "launch": {}}, True),
        ({"class": "disposable", "launch": {"kind": "external"}}, False),
        ({"class": "disposable", "peer": {"cid": 3}}, False),
        ({"class": "disposable", "launch": {"kind": "external"}, "peer": {"cid": 3}}, True),
        ({"class": "disposable", "launch": {"kind": "external"}, "peer": {"cid": 2}}, False),
        ({"class": "disposable", "launch": {"kind": "external"}, "peer": {}}, False),
        ({"class": "disposable", "launch": {"kind": "external", "cpus": 1}, "peer": {"cid": 3}}, False),
        ({"class": "disposable", "launch": {"memory": "2G"}}, True),
        ({"class": "disposable", "launch": {"memory": "2g"}}, False),
    ],
)  # fmt: skip
def test_the_schema_knows_which_keys_go_together(validate, values, valid):
    """[peer] and kind are checked in the editor too."""
    if valid:
        validate(values)
    else:
        with pytest.raises(fastjsonschema.JsonSchemaException):
            validate(values)

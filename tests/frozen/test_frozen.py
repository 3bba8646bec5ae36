"""What a release promised (docs/stability.md) still holds in this version."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from broker.ipc.audit import schema
from tests.frozen.compare import (
    compare_documents,
    compare_interfaces,
    compare_lists,
    compare_schemas,
    compare_values,
)
from tests.frozen.make import STAMPED, freeze, sample
from tests.frozen.present import (
    DATA,
    INTERFACE,
    MANUAL,
    ROOT,
    SCHEMAS,
    SOURCES,
    exit_codes,
    language,
    present,
)
from tests.frozen.running import running_documents
from tests.kit.needs import PID_NAMESPACES

HERE = Path(__file__).parent
VERSIONS = sorted(path for path in HERE.iterdir() if re.match(r"\d", path.name))
CHANGES = tomllib.loads((HERE / "changes.toml").read_text()).get("change", [])
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
CHECKER = ROOT / "shims" / "vitrail_audit_check.py"
_RELEASED = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)

WHAT_TO_DO = """
Version {version} promised this (docs/stability.md), and somebody may use it.
Keep it: an addition beside the old form is always possible. If it has to end:
  1. keep it working, and name it under 'Deprecated' in CHANGELOG.md and in its own page;
  2. after two minor releases end it, with a row in tests/frozen/changes.toml, an entry
     under 'Removed' in CHANGELOG.md that says what users do instead, and a higher version
     of the interface, schema or format if it has one.
Never edit tests/frozen/{version}: 'python -m tests.frozen.make VERSION' writes the
directory of the next release, from the sources in tests/frozen/sources.
"""


def hold(directory: Path, problems: Iterable[str]) -> None:
    """Fail with the problems that no deprecation explains, and with what to do."""
    ended = tuple(row["problem"] for row in CHANGES)
    remaining = [line for line in problems if not line.startswith(ended or ("\0",))]
    if remaining:
        todo = WHAT_TO_DO.format(version=directory.name)
        pytest.fail("\n".join([*sorted(remaining), todo]), pytrace=False)


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name, name="release")
def _release(request):
    return request.param


@pytest.fixture(name="version")
def _version(release):
    """This version, with the release's records, rules and log."""
    with present(release, release) as version:
        yield version


def load(release: Path, name: str):
    return json.loads((release / name).read_text())


def lines(release: Path, name: str):
    return [json.loads(line) for line in (release / name).read_text().splitlines()]


# -- the promises ----------------------------------------------------------------------


@pytest.mark.slow
def test_records_of_a_release_have_their_values(release, version):
    hold(
        release,
        compare_values(load(release, "records.json"), version.records(), "records: "),
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_of_a_release_keep_keys_choices_and_defaults(release, name):
    now = json.loads((DATA / "schema" / f"{name}.json").read_text())
    frozen = load(release, f"schema/{name}.json")
    hold(release, compare_schemas(frozen, now, f"{name}: "))


def test_rules_of_a_release_decide_the_same(release, version):
    hold(
        release,
        compare_values(lines(release, "answers.jsonl"), version.answers(), "answers"),
    )


def test_rule_language_of_a_release_has_its_vocabulary(release):
    hold(release, compare_lists(load(release, "language.json"), language(), "rules:"))


def test_clients_of_a_released_interface_are_answered(release):
    frozen = (release / INTERFACE).read_text()
    hold(release, compare_interfaces(frozen, (DATA / INTERFACE).read_text()))


def test_log_of_a_release_is_verified_and_printed(release, version):
    checkpoint = release / "checkpoint"
    answer = version.call(f"audit verify --against {checkpoint}")
    assert answer.code == 0, answer.out + answer.err
    frozen = lines(release, "events.jsonl")
    plain = version.call("audit -n all --no-pager")
    assert plain.code == 0, plain.err
    assert len(plain.lines) >= len(frozen)
    answer = version.call("audit -n all --json")
    hold(release, compare_values(frozen, answer.objects, "events"))


def test_proofs_of_a_release_are_valid(release, tmp_path):
    """The program that checks them stands alone, and may be an auditor's own copy."""
    for number, line in enumerate((release / "proofs.jsonl").read_text().splitlines()):
        proof = tmp_path / f"{number}.json"
        proof.write_text(line)
        argv = [sys.executable, CHECKER, proof, "--checkpoint", release / "checkpoint"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_exit_codes_of_a_release_are_the_same(release, version):
    frozen, now = load(release, "exit-codes.json"), exit_codes()
    problems = [
        f"exit codes: {verb} does not name {code} any more"
        for verb, text in frozen["verbs"].items()
        for code in sorted(codes(text) - codes(now["verbs"].get(verb, "")))
    ]
    problems += [
        f"exit codes: {code} is not in the table of {MANUAL.name} any more"
        for code in frozen["all"].keys() - now["all"].keys()
    ]
    problems += compare_values(frozen["calls"], version.exits(), "exit codes: ")
    hold(release, problems)


def test_json_of_a_release_keeps_its_keys(release, version):
    problems: list[str] = []
    for line, frozen in load(release, "documents.json").items():
        problems += compare_documents(
            frozen, version.documents(line), f"brokerctl {line}: "
        )
    hold(release, problems)


@PID_NAMESPACES
@pytest.mark.slow
async def test_json_of_a_running_broker_keeps_its_keys(release):
    problems: list[str] = []
    now = await running_documents()
    for line, frozen in load(release, "running.json").items():
        if line not in now:
            problems.append(f"brokerctl {line} is gone")
            continue
        problems += compare_documents(frozen, now[line], f"brokerctl {line}: ")
    # Whether a list has an element depends on the moment: warnings, streams, troubles.
    hold(release, [line for line in problems if "no element any more" not in line])


def codes(text: str) -> set[str]:
    """Return the exit codes that a verb's help names."""
    return set(re.findall(r"\b\d{1,3}\b", text))


# -- the files -------------------------------------------------------------------------


def test_each_release_of_the_changelog_is_frozen():
    """Mend with: python -m tests.frozen.make VERSION, in the commit of the release."""
    frozen = {path.name for path in VERSIONS}
    assert {"0.2.0"} | set(_RELEASED.findall(CHANGELOG)) <= frozen


def test_ended_promises_are_in_the_changelog():
    for row in CHANGES:
        assert row["deprecated"] in CHANGELOG, row
        assert row["changelog"] in CHANGELOG, row


def test_sources_use_each_key_of_a_record():
    """A new key has a value in tests/frozen/sources, so that the next release keeps it."""
    keys = set(_keys(json.loads((DATA / "schema" / "sandbox.json").read_text())))
    values = [
        tomllib.loads(file.read_text())
        for file in (SOURCES / "sandboxes.d").glob("*.toml")
    ]
    assert keys - {key for value in values for key in _set(value)} == set()


def test_sources_use_each_word_of_the_rule_language():
    text = "\n".join(
        p.read_text() for p in (SOURCES / "policy.d").rglob("*") if p.is_file()
    )
    vocabulary = language()
    assert [
        w
        for w in vocabulary["services"]
        if not re.search(rf"^{w} ", text, re.MULTILINE)
    ] == []
    assert [
        w
        for w in vocabulary["directives"]
        if f"\n{w} " not in text and "compat" not in w
    ] == []
    keys = [*vocabulary["keys"], *vocabulary["keys of vitrail.Network"]]
    assert [
        key for key in keys if f" {key}=" not in text and f",{key}=" not in text
    ] == []


@pytest.mark.parametrize(
    "kind", schema.AnyEvent.__args__, ids=lambda kind: kind.__name__
)
def test_frozen_events_have_each_field(kind):
    event = sample(kind)
    for name in set(kind.__struct_fields__) - STAMPED:
        assert getattr(event, name), name


@pytest.mark.slow
def test_tool_freezes_this_version(tmp_path):
    """The next release's directory can be made, and holds what it promises."""
    freeze(tmp_path)
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    newest = VERSIONS[-1]
    released = {str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file()}
    assert {name for name in released if "/" not in name} - {"running.json"} <= names


def _keys(table, path=""):
    for key, value in table.get("properties", {}).items():
        if "properties" in value:
            yield from _keys(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _set(table, path=""):
    for key, value in table.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from _set(value, f"{path}{key}.")


# -- the comparison --------------------------------------------------------------------


def test_a_key_a_choice_and_a_default_that_end_are_reported():
    frozen = json.loads((DATA / "schema" / "sandbox.json").read_text())
    now = json.loads(json.dumps(frozen))
    launch = now["properties"]["launch"]["properties"]
    del launch["standby"]
    launch["kind"]["oneOf"].pop()
    launch["fork"]["default"] = "no"
    launch["cpus"]["maximum"] = 2
    now["required"].append("display")
    assert sorted(compare_schemas(frozen, now, "")) == [
        ".display could be left out, and is required",
        ".launch.cpus: maximum was 64, and is 2",
        ".launch.fork: the default was 'copy', and is 'no'",
        ".launch.kind: the value 'external' is gone",
        ".launch.standby is gone",
    ]
    assert not [*compare_schemas(now, now, "")]


def test_a_method_a_field_and_a_type_that_end_are_reported():
    frozen = """interface a.b\n\ntype T (\n  one: string,\n  two: int\n)

method Get(name: string) -> (rows: []T)\n\nmethod End() -> ()\n\nerror Failed (message: string)"""
    now = frozen.replace("  two: int", "  two: float").replace("method End() -> ()", "")
    now = now.replace("name: string)", "name: string, to: string)")
    assert [*compare_interfaces(frozen, now)] == [
        "varlink: requests End is gone",
        "varlink: replies End is gone",
        "varlink: types T.two was int, and is float",
        "varlink: Get.to is new, and old clients do not send it",
    ]
    added = frozen.replace("name: string)", "name: ?string, to: ?string)")
    assert not [*compare_interfaces(frozen, added)]


def test_a_key_of_a_document_that_ends_is_reported():
    frozen = [{"name": "work", "rows": [{"size": 1}], "since": None}]
    assert not [*compare_documents(frozen, [{**frozen[0], "since": 1.5, "new": 1}], "")]
    now = [{"name": 7, "rows": [{}]}]
    assert [*compare_documents(frozen, now, "x")] == [
        "x[].name was text, and is a number",
        "x[].rows[].size is gone",
        "x[].since is gone",
    ]


def test_a_broken_promise_says_what_to_do(tmp_path):
    with pytest.raises(pytest.fail.Exception, match="name it under 'Deprecated'"):
        hold(tmp_path / "0.2.0", ["rules: 'ask' is gone"])

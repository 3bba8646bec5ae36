"""Decisions as a table: record, request, verdict, reason, place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.destinations import NETWORK
from policy.records.loader import load_records
from policy.rules.record_gate import (
    AGENT,
    AUDIO,
    DISPLAY,
    MICROPHONE,
    NO_RULE,
    RecordRequest,
    decide,
)

_RECORDS = {
    "open": 'class = "disposable"\ndisplay = "allow"\n',
    "indented": 'class = "disposable"\n\n  display = "allow"\n',
    "shut": 'class = "disposable"\ndisplay = "none"\n',
    "raw": 'class = "disposable"\naudio = "raw"\n',
    "loud": 'class = "disposable"\naudio = "allow"\n',
    "quiet": 'class = "disposable"\n',
    "kept": 'class = "persistent"\ndisplay = "allow"\nlaunch.kind = "microvm"\n',
    "theirs": 'class = "persistent"\ndisplay = "allow"\n[launch]\nkind = "external"\n'
    "[peer]\ncid = 7\n",
    "named": 'class = "disposable"\nlaunch.kind = "bwrap"\nlaunch.network = "rules"\n',
    "anywhere": 'class = "disposable"\nlaunch.kind = "bwrap"\nlaunch.network = "user"\n',
    "broken": 'class = "disposable"\ndisplay = "alow"\n',
}


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for name, text in _RECORDS.items():
        (folder / f"{name}.toml").write_text(text)
        (folder / f"{name}.toml").chmod(0o644)
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module", name="records")
def _records(folder):
    return load_records([folder])


@pytest.mark.parametrize(
    ("sandbox", "record", "service", "verdict", "reason", "where"),
    [
        ("named-1", "named", NETWORK, "allow", "the record 'named' has network = \"rules\"", "{}/named.toml:3:1"),
        ("anywhere-1", "anywhere", NETWORK, "deny", "the record 'anywhere' has network = \"user\": it reaches the network without a rule, and no rule is asked", "{}/anywhere.toml:3:1"),
        ("quiet-1", "quiet", NETWORK, "deny", "the record 'quiet' has network = \"none\"", "{}/quiet.toml: default of 'launch.network'"),
        ("open", "open", DISPLAY, "allow", "the record 'open' has display = \"allow\"", "{}/open.toml:2:1"),
        ("open-3f", "open", DISPLAY, "allow", "the record 'open' has display = \"allow\"", "{}/open.toml:2:1"),
        ("indented-1", "indented", DISPLAY, "allow", "the record 'indented' has display = \"allow\"", "{}/indented.toml:3:3"),
        ("shut-1", "shut", DISPLAY, "deny", "the record 'shut' has display = \"none\"", "{}/shut.toml:2:1"),
        ("quiet-1", "quiet", DISPLAY, "deny", "the record 'quiet' has display = \"none\"", "{}/quiet.toml: default of 'display'"),
        ("quiet-1", "quiet", AGENT, "allow", "Vitrail launches 'quiet', so its agent may report", "{}/quiet.toml: default of 'launch.kind'"),
        ("kept", "kept", AGENT, "allow", "Vitrail launches 'kept', so its agent may report", "{}/kept.toml:3:1"),
        ("kept-1", "kept", AGENT, "deny", "'kept-1' is not the sandbox of the persistent record 'kept'", "{}/kept.toml:1:1"),
        ("theirs", "theirs", AGENT, "allow", "'theirs' is a VM whose guest may contain Vitrail's agent", "{}/theirs.toml:4:1"),
        ("named-1", "named", AGENT, "deny", "'named' is not a machine with Vitrail's agent", "{}/named.toml:2:1"),
        ("theirs", "theirs", DISPLAY, "allow", "the record 'theirs' has display = \"allow\"", "{}/theirs.toml:2:1"),
        ("broken", "broken", DISPLAY, "deny", "the record 'broken' has an error: \"alow\" is not allowed here", "{}/broken.toml:2:11"),
        ("broken", "broken", AGENT, "deny", "the record 'broken' has an error: \"alow\" is not allowed here", "{}/broken.toml:2:11"),
        ("nobody", "nobody", DISPLAY, "deny", "no record is named 'nobody'", NO_RULE),
        ("", "", "", "deny", "no record is named ''", NO_RULE),
        ("open", "open", AUDIO, "deny", "the record 'open' has audio = \"none\"", "{}/open.toml: default of 'audio.playback'"),
        ("raw", "raw", AUDIO, "allow", "the record 'raw' has audio = \"raw\"", "{}/raw.toml:2:1"),
        ("loud", "loud", AUDIO, "allow", "the record 'loud' has audio = \"allow\"", "{}/loud.toml:2:1"),
        ("loud", "loud", MICROPHONE, "deny", "the record 'loud' has microphone = \"deny\"", "{}/loud.toml: default of 'audio.microphone'"),
        ("open", "open", "vitrail.display", "deny", "no service is named 'vitrail.display'", NO_RULE),
        ("open", "open", "\x1b[2J", "deny", "no service is named '\\x1b[2J'", NO_RULE),
    ],
)  # fmt: skip
def test_decisions(folder, records, sandbox, record, service, verdict, reason, where):
    """Every row names the verdict, the reason and the place that decided."""
    decision = decide(records, RecordRequest(sandbox, record, service))
    assert (decision.verdict, decision.reason) == (verdict, reason)
    assert decision.where == where.format(folder)
    assert decision.allowed == (verdict == "allow")
    assert decision.digest == records.digest
    assert decision.trace[-1].question == "verdict"
    assert decision.trace[-1].answer == verdict


@given(st.text(max_size=40), st.sampled_from([*_RECORDS, "x"]) | st.text(), st.text())
def test_unknown_is_denied(sandbox, record, service):
    """Whatever is asked that no row above allows is denied, never an exception."""
    records = load_records([])
    assert decide(records, RecordRequest(sandbox, record, service)).verdict == "deny"


@given(
    sandbox=st.text(max_size=40),
    record=st.sampled_from(sorted(_RECORDS)),
    service=st.text(max_size=20),
)
def test_no_other_service_is_allowed(records, sandbox, record, service):
    """Services are allowed by name only."""
    if service not in {AGENT, AUDIO, DISPLAY}:
        assert (
            decide(records, RecordRequest(sandbox, record, service)).verdict == "deny"
        )


def test_first_start_without_records_denies_everything():
    """No directory, no record, no service; and it says so."""
    decision = decide(load_records([]), RecordRequest("demo", "demo", DISPLAY))
    assert (decision.verdict, decision.where) == ("deny", NO_RULE)

"""The targets that a question about a file or an address offers can take it."""

from __future__ import annotations

import pytest

from policy.records.loader import load_records
from policy.rules.engine import Engine, PolicyCall
from policy.rules.record_gate import RecordRequest
from policy.rules.verdict import decide
from policy.rules.world import world_of
from policy.tools.files_in_memory import rules_of_map

_RECORDS = {
    "work": 'class = "persistent"\nlaunch.kind = "microvm"\n',
    "vault": 'class = "persistent"\nlaunch.kind = "microvm"\n',
    "pdf": 'class = "disposable"\nlaunch.kind = "microvm"\n',
    "box": 'class = "persistent"\nlaunch.kind = "bwrap"\n',
    "boxes": 'class = "disposable"\nlaunch.kind = "bwrap"\n',
    "theirs": 'class = "persistent"\n[launch]\nkind = "external"\n[peer]\ncid = 7\n',
}
_RUNNING = [("pdf-1", "pdf"), ("boxes-1", "boxes"), ("box", "box")]
_ASKS = "vitrail.{} * @anyvm @anyvm ask\nvitrail.{} * @anyvm @adminvm ask\n"


@pytest.fixture(name="records")
def _records(tmp_path):
    for name, text in _RECORDS.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return load_records([tmp_path])


def decided(records, service, target, rules=_ASKS):
    engine = Engine(rules_of_map({"10-a.policy": rules.format(service, service)}))
    service = f"vitrail.{service}"
    call = PolicyCall(service, "+", "work", target)
    request = RecordRequest("work", "work", service)
    world = world_of(records, _RUNNING)
    return decide(records, request, lambda: engine.answer(call, world)).answer


@pytest.mark.parametrize(
    ("service", "target", "offered"),
    [
        ("FileCopy", "@default", "@dispvm:pdf dom0 pdf-1 theirs vault"),
        ("OpenURL", "@default", "@dispvm:pdf dom0 pdf-1 theirs vault"),
        ("OpenFile", "@default", "@dispvm:pdf dom0 pdf-1 theirs vault"),
        ("FileCopy", "pdf", "@dispvm:pdf dom0 pdf-1 theirs vault"),
    ],
)
def test_only_targets_that_can_take_it_are_offered(records, service, target, offered):
    rules = _ASKS
    if target == "@default":
        rules += "vitrail.{0} * @anyvm @default ask\n".replace("{0}", service)
    answer = decided(records, service, target, rules)
    assert (answer.verdict, " ".join(answer.targets)) == ("ask", offered)


@pytest.mark.parametrize("target", ["box", "@dispvm:boxes", "boxes-1"])
def test_a_copy_into_a_box_is_not_asked_about(records, target):
    answer = decided(records, "FileCopy", target, f"vitrail.{{}} * work {target} ask\n")
    assert answer.verdict == "deny"
    assert "10-a.policy:1 asks, but no target can take files" in answer.reason


def test_a_default_that_is_not_offered_is_none(records):
    for default, left in (("box", None), ("pdf", "@dispvm:pdf"), ("vault", "vault")):
        rules = "vitrail.{} * @anyvm @anyvm ask default_target=" + default + "\n"
        assert decided(records, "OpenURL", "vault", rules).default_target == left


def test_other_services_are_left_as_they_are(records):
    answer = decided(records, "Call", "box", "vitrail.{} * @anyvm @anyvm ask\n")
    assert {"box", "boxes", "@dispvm:boxes"} <= set(answer.targets)

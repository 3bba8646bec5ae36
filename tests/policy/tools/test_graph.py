"""The picture: well-formed, every flow in it, nothing of a name taken as markup."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from policy.rules.engine import Engine, PolicyCall
from policy.rules.rulefiles import load_rules
from policy.rules.ruleset import rules_of_map
from policy.rules.world import Domain, World, world_from_json
from policy.tools.flows import flows
from policy.tools.graph import draw
from tests.policy import strategies

DATA = Path(__file__).parent.parent.parent.parent / "broker" / "data" / "policy.d"
SVG = "{http://www.w3.org/2000/svg}"
_QUIET = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow]
)


def _household():
    rules = load_rules([DATA], check_owner=False)
    return rules, world_from_json(json.loads((DATA / "household.json").read_text()))


def _texts(picture):
    return [text.text for text in ET.fromstring(picture).iter(f"{SVG}text")]


def test_the_household():
    """Boxes, arrows and sentences as the rules have them."""
    rules, world = _household()
    found = flows(rules, world)
    picture = draw(found, world, {"work": "#0072b2"}, "Home")
    texts = _texts(picture)
    assert texts[0] == "Home"
    assert "work → you: ask AudioInput" not in texts
    assert "personal → you: ask AudioInput" in texts
    assert "personal → work: allow ClipboardPaste, ask ClipboardPaste (mime=text/plain), ask FileCopy" in texts  # fmt: skip
    assert any(str(text).startswith("work → a new web: ask FileCopy, allow OpenURL") for text in texts)  # fmt: skip
    paths = list(ET.fromstring(picture).iter(f"{SVG}path"))
    arrows = [path for path in paths if path.get("marker-end")]
    assert len(arrows) == len({(flow.source, flow.target) for flow in found})
    solid = [path for path in arrows if not path.get("stroke-dasharray")]
    assert len(solid) == 4, "addresses and the clipboard of work and personal"
    assert {path.get("stroke") for path in solid} == {"#0072b2", "#555555"}


def test_only_some():
    """By sandbox and by service."""
    rules, world = _household()
    some = flows(rules, world, sandboxes=["banking"])
    assert all("banking" in {flow.source, flow.target} for flow in some)
    assert {flow.service for flow in some if flow.target == "banking"} == {"vitrail.ClipboardPaste"}  # fmt: skip
    some = flows(rules, world, services=["vitrail.AudioInput"])
    assert [(f.source, f.target, f.verdict) for f in some] == [("personal", "dom0", "ask")]  # fmt: skip


@_QUIET
@given(strategies.policies(8), strategies.worlds())
def test_a_flow_is_there_if_and_only_if_a_call_is_granted(text, world):
    """Whatever some call reaches by allow or ask has its arrow, and no other."""
    rules = rules_of_map({"1.policy": text})
    engine = Engine(rules)
    told = [
        {"mime": mime, "scheme": scheme, "host": host}
        for mime in ("", "image/png", "text/plain")
        for scheme in ("", "http", "https")
        for host in ("", "example.org", "x.example.org")
    ]
    granted = set()
    for source in world.names:
        if source == "dom0":
            continue
        made = [f"@dispvm:{name}" for name in world.names]
        for target in [*strategies.CALLED, *made]:
            for argument in ("+", "+x", "+z"):
                for more in told:
                    call = PolicyCall("a", argument, source, target, **more)
                    answer = engine.answer(call, world)
                    reached = (answer.target,) if answer.verdict == "allow" else answer.targets  # fmt: skip
                    granted |= {(source, one) for one in reached}
    found = {(flow.source, flow.target) for flow in flows(rules, world, services=["a"])}
    assert found >= granted
    # And no other: each is reached by what its flow says.
    for flow in flows(rules, world, services=["a"]):
        assert (flow.source, flow.target) in granted


def test_names_are_no_markup():
    """A name from a world's JSON may hold anything."""
    bad = "</text><script>alert(1)</script>&\x00"
    world = World({"dom0": Domain("dom0"), bad: Domain(bad), "b": Domain("b")})
    rules = rules_of_map({"1.policy": "a * @anyvm @anyvm allow\n"})
    picture = draw(flows(rules, world), world, {}, bad)
    assert "<script" not in picture
    assert any("<script>" in str(text) for text in _texts(picture))


def test_no_box_lies_upon_another():
    """Also with many."""
    names = [f"box-{number:02}" for number in range(40)]
    world = World({name: Domain(name) for name in ["dom0", *names]})
    rules = rules_of_map({"1.policy": "a * @anyvm @adminvm ask\na * @anyvm box-00 allow\n"})  # fmt: skip
    picture = draw(flows(rules, world), world, {}, "many")
    boxes = [
        tuple(float(rect.get(key)) for key in ("x", "y", "width", "height"))
        for rect in ET.fromstring(picture).iter(f"{SVG}rect")
        if rect.get("x")
    ]
    assert len(boxes) == 41
    for number, (x, y, wide, high) in enumerate(boxes):
        for a, b, _, _ in boxes[number + 1 :]:
            assert abs(a - x) >= wide or abs(b - y) >= high

"""The graph: every flow in it, nothing of a name taken as syntax, and dot draws it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.rules.engine import Engine, PolicyCall
from policy.rules.rulefiles import load_rules
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map
from policy.tools.flows import flows
from policy.tools.graph import graph_text
from policy.tools.qubes.world_json import world_from_json
from tests.policy import strategies

DATA = Path(__file__).parent.parent.parent.parent / "broker" / "data" / "policy.d"
SVG = "{http://www.w3.org/2000/svg}"
_QUIET = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow]
)


def _household():
    rules = load_rules([DATA], check_owner=False)
    return rules, world_from_json(json.loads((DATA / "household.json").read_text()))


def _drawn(text):
    if shutil.which("dot") is None:
        pytest.skip("dot is not installed: apt-get install graphviz")
    done = subprocess.run(
        ["dot", "-Tsvg"],
        input=text.encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == b"", "dot warns of nothing"
    return ET.fromstring(done.stdout)


def _texts(picture):
    # dot writes blanks as no-break spaces.
    return [(t.text or "").replace("\xa0", " ") for t in picture.iter(f"{SVG}text")]


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def _syntax(text):
    """The graph without the text of its strings and its HTML labels."""
    return re.sub(r"<<table.*?</table>>", "<>", _STRING.sub('""', text))


def test_graph_has_boxes_arrows_and_sentences_of_the_rules():
    rules, world = _household()
    found = flows(rules, world)
    text = graph_text(found, world, {"work": "#0072b2"}, "Home")
    assert 'label="Home"' in text
    assert "work → you: ask AudioInput" not in text
    assert "personal → you: ask AudioInput" in text
    assert ". personal → work: allow ClipboardPaste, ask ClipboardPaste (mime=text/plain), ask FileCopy\\l" in text  # fmt: skip
    assert re.search(r"\d+\. work → a new web: ask FileCopy, allow OpenURL", text)
    arrows = [line for line in text.splitlines() if " -> " in line]
    assert len(arrows) == len({(flow.source, flow.target) for flow in found})
    solid = [line for line in arrows if 'style="solid"' in line]
    assert len(solid) == 4, "addresses and the clipboard of work and personal"
    colours = {re.search(r', color="(#\w+)"', line)[1] for line in solid}
    assert colours == {"#0072b2", "#555555"}


def test_dot_draws_each_box_and_each_arrow():
    rules, world = _household()
    found = flows(rules, world)
    picture = _drawn(graph_text(found, world, {"work": "#0072b2"}, "Home"))
    kinds = [group.get("class") for group in picture.iter(f"{SVG}g")]
    assert kinds.count("edge") == len({(flow.source, flow.target) for flow in found})
    names = {name for flow in found for name in (flow.source, flow.target)}
    assert kinds.count("node") == len(names) + 1, "the list is a node"
    texts = _texts(picture)
    assert texts[0] == "Home"
    assert {"you", "work", "created for the call"} <= set(texts)
    assert any(text.endswith("personal → you: ask AudioInput") for text in texts)


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


@_QUIET
@given(st.text(alphabet='ab"\\\n&;<>[]{}é\u202e\x00', min_size=1, max_size=20))
def test_name_is_never_syntax_of_the_graph(name):
    """A name from a world's JSON may hold anything."""

    def shape(name, title):
        world = World({"dom0": Domain("dom0"), name: Domain(name), "z": Domain("z")})
        rules = rules_of_map({"1.policy": "a * @anyvm @anyvm allow\n"})
        return _syntax(graph_text(flows(rules, world), world, {}, title))

    # An arrow for each pair, in an order that depends on the names.
    assert sorted(shape(name, name).split()) == sorted(shape("plain", "t").split())


def test_names_are_shown_as_they_are():
    bad = '</text>"]; x [label="\\N&amp;'
    world = World({"dom0": Domain("dom0"), bad: Domain(bad), "b": Domain("b")})
    rules = rules_of_map({"1.policy": "a * @anyvm @anyvm allow\n"})
    texts = _texts(_drawn(graph_text(flows(rules, world), world, {}, bad)))
    assert texts[0] == bad
    assert any(f"{bad} → b: allow a" in text for text in texts)


def test_control_characters_of_names_are_escaped():
    bad = "a\x00\x1b\u202eb"
    world = World({"dom0": Domain("dom0"), bad: Domain(bad), "b": Domain("b")})
    rules = rules_of_map({"1.policy": "a * @anyvm @anyvm allow\n"})
    text = graph_text(flows(rules, world), world, {}, "t")
    assert all(char.isprintable() or char == "\n" for char in text)
    assert r"a\\x00\\x1b\\u202eb" in text


def test_no_box_lies_upon_another():
    """Also with many."""
    names = [f"box-{number:02}" for number in range(40)]
    world = World({name: Domain(name) for name in ["dom0", *names]})
    rules = rules_of_map({"1.policy": "a * @anyvm @adminvm ask\na * @anyvm box-00 allow\n"})  # fmt: skip
    picture = _drawn(graph_text(flows(rules, world), world, {}, "many"))
    boxes = []
    for group in picture.iter(f"{SVG}g"):
        path = group.find(f".//{SVG}path")
        if group.get("class") == "node" and path is not None:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))]
            xs, ys = numbers[::2], numbers[1::2]
            boxes.append((min(xs), max(xs), min(ys), max(ys)))
    assert len(boxes) == 41
    for number, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = right < other[0] or other[1] < left
            assert apart or bottom < other[2] or other[3] < top

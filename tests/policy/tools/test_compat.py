"""``compat`` against recorded answers of Qubes' own parser."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from policy.rules.engine import PolicyCall
from policy.tools.files_in_memory import rules_of_map
from policy.tools.qubes import compat
from policy.tools.qubes.world_json import world_from_json

RECORDED = Path(__file__).parent.parent.parent / "corpus" / "policy" / "qubes.jsonl.gz"


@pytest.fixture(scope="module", name="lines")
def _lines():
    return [
        json.loads(line) for line in gzip.decompress(RECORDED.read_bytes()).splitlines()
    ]


def _ours(answer, *, with_place):
    rule = answer.rule
    made = {
        "decision": answer.verdict,
        "file": rule.file if rule and with_place else None,
        "line": rule.line if rule and with_place else None,
    }
    if answer.verdict == "deny":
        made["notify"] = answer.notify
    if answer.verdict in {"allow", "ask"}:
        made |= {
            "user": answer.user,
            "notify": answer.notify,
            "autostart": answer.autostart,
        }
    if answer.verdict == "allow":
        made["target"] = answer.target
    if answer.verdict == "ask":
        made |= {
            "targets": list(answer.targets),
            "default_target": answer.default_target,
        }
    return made


def test_ten_thousand_recorded_answers(lines):
    """Every one is the same: verdict, line, targets, user, notify, autostart."""
    worlds = [world_from_json(world) for world in lines[0]["worlds"]]
    seen: Counter[str] = Counter()
    for line in lines[1:]:
        rules = rules_of_map(line["policy"], compat=True)
        for *call, theirs in line["calls"]:
            answer = compat.answer(rules, PolicyCall(*call), worlds[line["world"]])
            whole = theirs["file"] is not None
            assert _ours(answer, with_place=whole) == theirs, (line["policy"], call)
            seen[theirs["decision"]] += 1
    assert sum(seen.values()) >= 10000
    assert min(seen[word] for word in ("allow", "ask", "deny")) > 1000
    assert seen["error"] > 100

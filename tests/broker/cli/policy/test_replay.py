"""``policy simulate`` and ``explain --event`` on a log that a broker's parts wrote."""

from __future__ import annotations

import json

import pytest
import trio
from click.testing import CliRunner

from broker.authority.audit.names import Names
from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.store import open_store
from broker.authority.decisions.decision_events import decision
from broker.authority.decisions.evaluator import call_of
from broker.authority.permit import Asked, Request
from broker.cli.policy.verbs import command
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.ipc.audit import schema
from policy.records.loader import load_records
from policy.rules.engine import Engine
from policy.rules.rulefiles import SHIPPED, load_rules
from policy.rules.world import world_of

RULES = """a * work vault deny
a * @type:disposable @anyvm ask
a * work @anyvm allow host=*.example.org
a * work @anyvm allow
"""
WAYS = [
    Request(lease=Lease("l1", "work", "work", 1), service="a", target="vault"),
    Request(lease=Lease("l2", "web-7", "web", 1), service="a", target="vault"),
    Request(lease=Lease("l1", "work", "work", 1), service="a", target="web", host="x.org"),
    Request(lease=Lease("l1", "work", "work", 1), service="a", argument="+x", target="web"),
    Request(lease=Lease("l1", "work", "work", 1), service="c", target="web"),
]  # fmt: skip


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    config = tmp_path / "c/vitrail"
    for folder in ("policy.d", "sandboxes.d"):
        (config / folder).mkdir(parents=True)
    (config / "policy.d/30-user.policy").write_text(RULES)
    for name, kind in (("work", "persistent"), ("vault", "persistent"), ("web", "disposable")):  # fmt: skip
        (config / f"sandboxes.d/{name}.toml").write_text(f'class = "{kind}"\n')
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))

    def run(*words):
        done = CliRunner().invoke(command, [*map(str, words)])
        if isinstance(done.exception, RefusedError):
            return 1, str(done.exception)
        assert isinstance(done.exception, SystemExit | None), done.exception
        return done.exit_code, done.stdout + done.stderr

    run.rules = config / "policy.d"
    run.new = tmp_path / "new.policy"
    run.log = tmp_path / "s/vitrail/audit.sqlite"
    return run


def _write(run, names=Names.KEEP):
    """What a broker records of these ways, by its functions."""
    rules = load_rules([run.rules], shipped=SHIPPED)
    records = load_records([run.rules.parent / "sandboxes.d"])
    world = world_of(records, [("web-7", "web")])
    engine = Engine(rules)

    async def write():
        async with open_store(run.log, settings=AuditSettings(names=names)) as store:
            for request in WAYS:
                lease = request.lease
                await store.record(
                    schema.LeaseBegin(
                        sandbox=lease.sandbox, lease=lease.id, record=lease.record
                    )
                )
                answer = engine.answer(call_of(request), world)
                await store.record(
                    decision(
                        request,
                        answer,
                        schema.EventVerdict(
                            "allow" if answer.verdict == "ask" else answer.verdict
                        ),
                        {"rules": rules.digest, "records": records.digest},
                        asked=_ASKED if answer.verdict == "ask" else None,
                        target="vault" if answer.verdict == "ask" else "",
                    )
                )
            await store.record(schema.StreamRefused(sandbox="work", reason="no"))

    trio.run(write)


class _Said:
    by = "person"


_ASKED = Asked(1, _Said(), 2.0)  # type: ignore[arg-type]


def test_the_same_rules_change_nothing(run):
    """0: the host of an address is in the event, too."""
    _write(run)
    code, out = run("simulate", run.rules, "--json")
    assert code == 0, out
    found = json.loads(out.splitlines()[0])
    assert (found["same"], found["changed"]) == (5, 0)
    assert found["not_replayable"] == {}


def test_other_rules(run):
    """Counts by group with an event each; a disposable is known by its lease."""
    _write(run)
    run.new.write_text("a * @type:disposable @anyvm deny\na * work @anyvm allow\n")
    code, out = run("simulate", run.new, "--since", "-1d", "--json")
    assert code == 1
    changes = json.loads(out.splitlines()[0])["changes"]
    assert {(c["source"], c["target"], c["then"], c["now"]) for c in changes} == {
        ("work", "vault", "deny", "allow to vault"),
        ("web-7", "vault", "ask", "deny"),
    }
    code, out = run("simulate", run.new)
    assert code == 1
    assert "2 of 5 decisions would change" in out


def test_a_time_without_decisions(run):
    """Nothing is counted."""
    _write(run)
    code, out = run("simulate", run.rules, "--until", "-1d")
    assert code == 0
    assert "0 of 0 decisions" in out
    assert run("simulate", run.rules, "--since", "soon")[0] == 2


def test_rules_with_an_error(run):
    """3."""
    _write(run)
    run.new.write_text("a * work\n")
    assert run("simulate", run.new)[0] == 3


def test_hashed_names_are_not_guessed(run):
    """With names = "hash" an argument that was hashed is not replayable."""
    _write(run, Names.HASH)
    code, out = run("simulate", run.rules, "--json")
    found = json.loads(out.splitlines()[0])
    assert found["not_replayable"].get("the argument was stored as a hash") == 1
    assert (code, found["same"]) == (0, 3)


def test_explain_event(run):
    """Recorded decisions, and the current rules."""
    _write(run)
    code, out = run("explain", "--event", 2)
    assert code == 1
    assert "event 2: deny, by " in out
    assert "call: a+ work vault" in out
    assert "rules have changed" not in out
    assert "to change the decision to allow, add before" in out
    (run.rules / "30-user.policy").write_text("a * * * allow\n")
    code, out = run("explain", "--event", 2, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["event"]["decision"] == "deny"
    assert found["event"]["same_rules"] is False
    assert found["decision"] == "allow"


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "not a decision"), (11, "not a decision"), (99, "does not contain event 99")],
)
def test_explain_of_an_event_that_is_not_a_decision(run, number, said):
    """1, and why."""
    _write(run)
    code, out = run("explain", "--event", number)
    assert code == 1
    assert said in out


def test_explain_takes_a_call_or_an_event(run):
    """Not both, not neither."""
    _write(run)
    assert run("explain", "a", "work", "vault", "--event", 2)[0] == 2
    assert run("explain", "--event", 2, "--scheme", "x")[0] == 2
    assert run("explain")[0] == 2


def test_suggested_lines_are_for_what_was_refused(run):
    """As a table, alone, and as JSON; lines alone are a file of rules."""
    _write(run)
    code, out = run("suggest", "work", "--lines")
    assert code == 0, out
    lines = [line for line in out.splitlines() if line.startswith(("a ", "c "))]
    assert lines == ["a + work vault allow", "c + work web allow"]
    assert "1 line must precede" in out
    code, out = run("suggest", "work", "--json")
    assert code == 0
    found = json.loads(out.splitlines()[0])
    assert [one["line"] for one in found["lines"]] == lines
    assert [one["times"] for one in found["lines"]] == [1, 1]
    assert found["lines"][0]["before"].endswith("30-user.policy:1")
    code, out = run("suggest", "work")
    assert out.splitlines()[0].split() == ["TIMES", "EVENT", "LINE"]
    code, out = run("suggest", "web")
    assert (code, "the rules did not refuse any call" in out) == (1, True)
    (run.rules / "10-new.policy").write_text("".join(f"{line}\n" for line in lines))
    code, out = run("suggest", "work")
    assert code == 1, out
    (run.rules / "10-new.policy").write_text("a * work\n")
    assert run("suggest", "work")[0] == 3

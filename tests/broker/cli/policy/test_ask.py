"""``brokerctl policy check``, ``eval`` and ``explain`` on files of rules."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from broker.cli.policy.load import Situation, refuse_unknown_source, rules_of
from broker.cli.policy.verbs import command
from policy.rules.engine import PolicyCall
from policy.tools.qubes.world_json import world_from_json

RULES = """\
a * work @dispvm allow scheme=https rate=3/min
a * work vault deny
a * work @default ask default_target=vault
b * work @anyvm ask default_target=vault
"""
WORLD = {
    "domains": {
        "work": {"tags": ["job"], "type": "persistent", "default_dispvm": "web"},
        "vault": {"type": "persistent"},
        "web": {"type": "disposable", "template_for_dispvms": True},
    }
}


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    folder.mkdir(mode=0o755)
    (folder / "30-user.policy").write_text(RULES)
    (folder / "30-user.policy").chmod(0o644)
    (tmp_path / "w.json").write_text(json.dumps(WORLD))
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    def run(*words, given=None, here=True):
        where = (
            ["--policy", str(folder), "--world", str(tmp_path / "w.json")]
            if here
            else []
        )
        done = CliRunner().invoke(
            command, [*words, *where], input=given, catch_exceptions=False
        )
        return done.exit_code, done.stdout

    run.folder = folder
    return run


@pytest.mark.parametrize(
    ("words", "code", "decision", "line"),
    [
        (["a", "work", "@dispvm", "--scheme", "https"], 0, "allow", 1),
        (["a", "work", "@dispvm", "--scheme", "http"], 1, "deny", None),
        (["a+x", "work", "vault"], 1, "deny", 2),
        (["b+x", "work", "vault"], 0, "ask", 4),
    ],
)
def test_eval(run, words, code, decision, line):
    """Exit code, decision and line."""
    got, out = run("eval", *words, "--json")
    answer = json.loads(out)
    assert (got, answer["decision"], answer["line"]) == (code, decision, line)
    if decision == "ask":
        assert answer["targets"] == ["@dispvm:web", "vault", "web"]
        assert answer["default_target"] == "vault"
    if decision == "allow":
        assert answer["limits"] == {"rate": [3, 60]}
        assert answer["target"] == "@dispvm:web"
    assert run("eval", *words)[0] == code


def test_eval_as_qubes_refuses_our_keys(run):
    """One line that it does not know, and every call is an error."""
    code, out = run("eval", "b", "work", "vault", "--compat", "--json")
    answer = json.loads(out)
    assert (code, answer["decision"], answer["line"]) == (3, "error", 1)


def test_batch_keeps_order_and_survives_bad_lines(run):
    """One answer a line; policy and world may come with the call."""
    own = {"policy": {"1.policy": "c * x y allow"}, "world": {"domains": {"y": {}}}}
    calls = [
        {"service": "b", "argument": "+x", "source": "work", "target": "vault"},
        {"service": "c", "argument": "+", "source": "x", "target": "y", **own},
        {"service": "c", "source": "x", "target": "y", "policy": {"1.policy": "c *"}},
        {"service": "a", "source": "work", "target": "@dispvm", "scheme": "https"},
        {"service": "a", "source": "work", "target": "x", "typo": 1},
        {"service": 1},
        {"service": "c", "source": "x", "target": "y", "world": {"domains": 3}},
    ]
    lines = [json.dumps(call) for call in calls] + ["{", "[" * 100000]
    code, out = run("eval", "--batch", given="\n".join(lines))
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    verdicts = [
        "ask",
        "allow",
        "error",
        "allow",
        "error",
        "error",
        "error",
        "error",
        "error",
    ]
    assert [answer["decision"] for answer in answers] == verdicts
    assert (answers[2]["file"], answers[2]["line"]) == ("1.policy", 1)
    assert run("eval", "--batch", given=lines[0])[0] == 0


def test_wrong_calls(run):
    """Exit code 2."""
    assert run("eval", "a", "work")[0] == 2
    assert run("eval", "--batch", "a", "work", "vault")[0] == 2


@pytest.mark.parametrize("service", ["a", "vitrail.Display", "display"])
def test_the_service_comes_first(run, service):
    """The other order is named, not taken for a misspelt sandbox."""
    rules = rules_of((run.folder,))
    world = world_from_json(WORLD)
    with pytest.raises(click.UsageError, match="specify the service before"):
        refuse_unknown_source(
            PolicyCall("work", "+", service, "@adminvm"), Situation(world, None), rules
        )


def test_explain_shows_the_words_of_a_question(run):
    code, out = run("explain", "b+x", "work", "vault")
    assert code == 0
    assert "the question would be: work wants to call the service b\n" in out
    _, out = run("explain", "a", "work", "vault")
    assert "the question would be" not in out


def test_explain(run):
    """The rule, the earlier ones, the flip; as text and as JSON."""
    code, out = run("explain", "a", "work", "vault")
    assert code == 1
    assert "30-user.policy:2: a * work vault deny" in out
    assert "target: 'vault' is not @dispvm" in out
    assert "a + work vault allow" in out
    code, out = run("explain", "a", "work", "vault", "--json")
    found = json.loads(out)
    assert (found["decision"], found["line"]) == ("deny", 2)
    assert found["misses"][0]["column"] == "target"
    assert found["flip"]["decision"] == "allow"


def test_hostile_words_reach_no_terminal(run):
    """A name with an escape in it is shown, not obeyed."""
    for verb in ("eval", "explain"):
        assert "\x1b[2J" not in run(verb, "a", "\x1b[2J", "\x1b[2J")[1]


def test_check_shows_place_caret_and_sarif(run):
    """All errors at once; the same as SARIF."""
    (run.folder / "40-x.policy").write_text("a * work vault alow\na * @tagg:x y deny\n")
    code, out = run("check", str(run.folder), here=False)
    assert code == 1
    assert "40-x.policy:1:16: 'alow' is not an action" in out
    assert "  |                ^^^^\n" in out
    assert "hint: did you mean 'allow'?" in out
    assert "40-x.policy:2:5:" in out
    code, out = run("check", "--sarif", str(run.folder), here=False)
    assert code == 1
    results = json.loads(out)["runs"][0]["results"]
    region = results[0]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "startColumn": 16, "endLine": 1, "endColumn": 20}
    code, out = run("check", "--json", str(run.folder / "30-user.policy"), here=False)
    assert (code, json.loads(out)["rules"]) == (0, 4)


def test_check_compat_points_at_lines(run):
    """Lines that Qubes reads otherwise are no errors."""
    code, out = run("check", "--compat", "--json", str(run.folder), here=False)
    assert code == 0
    assert [(one["row"], one["line"]) for one in json.loads(out)["compat"]] == [
        ("keys", 1)
    ]


def test_a_file_that_others_may_write_denies(run):
    """Read as the broker reads it."""
    (run.folder / "30-user.policy").chmod(0o666)
    code, out = run("check", str(run.folder), here=False)
    assert code == 1
    assert "is writable by others" in out

"""``brokerctl policy lint``, ``test``, ``diff`` and ``fmt``: output and exit codes."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from click.testing import CliRunner

from broker.cli.policy.verbs import command
from broker.core.errors import RefusedError, SetupError

RULES = "a * work vault deny\na * @anyvm @anyvm ask\n"
WORLD = {"domains": {"work": {"type": "persistent"}, "vault": {"type": "persistent"}}}


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    folder.mkdir(mode=0o755)
    (folder / "30-user.policy").write_text(RULES)
    (tmp_path / "w.json").write_text(json.dumps(WORLD))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))

    def run(*words, policy=True, world=True):
        where = ["--policy", str(folder)] if policy else []
        where += ["--world", str(tmp_path / "w.json")] if world else []
        done = CliRunner().invoke(command, [*words, *where])
        refused = isinstance(done.exception, RefusedError)
        assert refused or isinstance(done.exception, SystemExit | None)
        return done.exit_code, done.stdout

    run.folder, run.base = folder, tmp_path
    return run


def test_lint(run):
    """0 without findings, 1 with warnings, 3 with errors."""
    assert run("lint") == (0, "")
    file = run.folder / "40-more.policy"
    file.write_text("a * work vault allow\n")
    code, out = run("lint")
    assert code == 1
    assert "40-more.policy:1:16: error: this rule never decides" in out
    assert "30-user.policy:1" in out
    code, out = run("lint", "--json")
    assert json.loads(out)["findings"][0]["check"] == "contradictory"
    code, out = run("lint", "--sarif")
    assert json.loads(out)["runs"][0]["results"][0]["ruleId"] == "contradictory"
    file.write_text("a * work\n")
    assert run("lint")[0] == 3


def test_test(run):
    """Beside the rules or named; coverage counts."""
    file = run.folder / "a.policytest"
    file.write_text("a work vault -> deny\n")
    code, out = run("test")
    assert (code, out.split("\n")[2][:5]) == (0, "ok 1 ")
    assert run("test", "--min-coverage", "50")[0] == 0
    assert run("test", "--min-coverage", "51")[0] == 1
    file.write_text("a work vault -> allow\n")
    code, out = run("test", str(file), "--json")
    assert code == 1
    assert json.loads(out)["cases"][0]["wrong"] == ["deny, not allow"]
    assert "<failure" in run("test", "--junit")[1]
    file.write_text("nonsense\n")
    assert run("test")[0] == 3


def test_diff(run):
    """0, 1, 3; directories or files."""
    new = run.base / "new.policy"
    new.write_text("# moved\n" + RULES)
    old = str(run.folder)
    assert run("diff", old, str(new), policy=False) == (0, "")
    new.write_text("a * @anyvm @anyvm ask\n")
    code, out = run("diff", old, str(new), policy=False)
    assert code == 1
    assert "a+(any other) work → vault" in out
    code, out = run("diff", old, str(new), "--json", policy=False)
    change = next(c for c in json.loads(out)["changes"] if c["targets"] == ["vault"])
    assert (change["old"]["decision"], change["new"]["decision"]) == ("deny", "ask")
    new.write_text("a\n")
    assert run("diff", old, str(new), policy=False)[0] == 3


def test_effective(run):
    """From it and to it; denied services are not shown."""
    code, out = run("effective", "work", "--json")
    found = json.loads(out)
    assert code == 0
    # Whatever it names but the vault, there is nothing left to offer to it.
    # The rules that came with the program are there too, as in the broker.
    assert {g["call"]["service"] for g in found["from"]} == {
        "vitrail.Agent",
        "vitrail.Audio",
        "vitrail.AudioOutput",
        "vitrail.Display",
    }
    (to,) = found["to"]
    assert (to["call"]["source"], to["line"], to["decision"]) == ("vault", 2, "ask")
    code, out = run("effective", "vault")
    assert code == 0
    assert "ask offering" in out
    assert run("effective", "nobody")[0] == 1
    (run.folder / "30-user.policy").write_text("a\n")
    assert run("effective", "work")[0] == 3


def test_fmt(run):
    """Printed, checked, written."""
    file = run.folder / "30-user.policy"
    even = "a * work   vault  deny\na * @anyvm @anyvm ask\n"
    assert run("fmt", str(file), policy=False, world=False) == (0, even)
    assert run("fmt", "--check", str(file), policy=False, world=False)[0] == 1
    assert file.read_text() == RULES
    assert run("fmt", "--write", str(file), policy=False, world=False)[0] == 0
    assert file.read_text() == even
    assert run("fmt", "--check", str(file), policy=False, world=False)[0] == 0


def test_graph_needs_dot_for_a_picture_only(run, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    code, out = run("graph", "--format", "dot")
    assert code == 0
    assert out.startswith("digraph policy {")
    done = CliRunner().invoke(
        command,
        ["graph", "--policy", str(run.folder), "--world", str(run.base / "w.json")],
    )
    assert isinstance(done.exception, SetupError)
    assert "the program dot of Graphviz is not installed" in done.exception.message
    assert done.stdout == ""


@pytest.mark.skipif(shutil.which("dot") is None, reason="no dot: install graphviz")
def test_graph_is_drawn_by_dot(run):
    file = run.base / "p.svg"
    code, out = run("graph", "-o", str(file))
    assert (code, out) == (0, "")
    text = file.read_text()
    # Nothing outside is referred to, also no document type.
    assert text.startswith("<svg")
    assert "http" not in re.sub(r'xmlns(:xlink)?="http://www.w3.org/[^"]*"', "", text)
    assert len(re.findall('class="edge"', text)) == len(
        {
            (f["source"], f["target"])
            for f in json.loads(run("graph", "--json")[1])["flows"]
        }
    )


@pytest.mark.skipif(shutil.which("dot") is None, reason="no dot: install graphviz")
def test_graph_that_takes_too_long_is_given_up(run, monkeypatch):
    monkeypatch.setattr("broker.cli.policy.graph._LAYOUT_SECONDS", 0.0)
    done = CliRunner().invoke(
        command,
        ["graph", "--policy", str(run.folder), "--world", str(run.base / "w.json")],
    )
    assert isinstance(done.exception, RefusedError)
    assert "dot took longer than" in done.exception.message
    assert "--sandbox" in str(done.exception.hint)

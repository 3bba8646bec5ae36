"""A DIRECTORY means the same to every verb of ``brokerctl policy``."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from broker.cli.policy.directories import Contents, contents
from broker.cli.policy.verbs import command
from broker.core.errors import RefusedError

RULES = "vitrail.FileCopy * work vault allow\nvitrail.FileCopy * @anyvm @anyvm deny\n"
CASES = "vitrail.FileCopy work vault -> allow\nvitrail.FileCopy vault work -> deny\n"
RECORD = """class = "persistent"

[launch]
kind = "external"

[peer]
cid = {cid}

[label]
name = "{name}"
colour = "{colour}"
"""


@pytest.fixture(name="site")
def _site(tmp_path, monkeypatch):
    """A settings directory, as a CI checks it out: no home and no broker around it."""
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    site = tmp_path / "site"
    for name in ("policy.d", "sandboxes.d"):
        (site / name).mkdir(mode=0o755, parents=True)
    (site / "policy.d" / "30-site.policy").write_text(RULES)
    (site / "policy.d" / "site.policytest").write_text(CASES)
    for cid, (name, colour) in enumerate({"work": "blue", "vault": "grey"}.items(), 40):
        text = RECORD.format(cid=cid, name=name, colour=colour)
        (site / "sandboxes.d" / f"{name}.toml").write_text(text)
    return site


def _run(*words):
    done = CliRunner().invoke(command, [str(word) for word in words])
    if isinstance(done.exception, RefusedError):
        return 1, str(done.exception)
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, done.output


def test_settings_directory_has_rules_and_records_in_its_parts(site):
    expected = Contents((site / "policy.d",), (site / "sandboxes.d",))
    assert contents((site,)) == expected
    assert contents((site / "policy.d",)) == Contents((site / "policy.d",), ())


def test_directory_with_nothing_to_read_is_an_error_to_every_verb(site):
    empty = site / "empty"
    empty.mkdir()
    for words in (
        ("check", empty),
        ("lint", "--policy", empty),
        ("test", "--policy", empty),
        ("diff", empty, site),
        ("diff", site, empty),
        ("eval", "vitrail.FileCopy", "work", "vault", "--policy", empty),
        ("explain", "vitrail.FileCopy", "work", "vault", "--policy", empty),
        ("effective", "work", "--policy", empty),
        ("graph", "--format", "dot", "--policy", empty),
    ):
        code, text = _run(*words)
        assert (code, "contains neither records" in text) == (1, True), words


def test_lint_reads_a_settings_directory(site):
    assert _run("lint", "--policy", site)[0] == 0
    (site / "policy.d" / "40-more.policy").write_text("vitrail.OpenURLs * * * allow\n")
    code, out = _run("lint", "--policy", site)
    assert code == 1
    assert "40-more.policy:1" in out
    (site / "policy.d" / "40-more.policy").write_text("vitrail.FileCopy\n")
    assert _run("lint", "--policy", site)[0] == 3


def test_lint_reads_the_records_of_a_settings_directory(site):
    record = site / "sandboxes.d" / "vault.toml"
    record.write_text(record.read_text().replace("grey", "nonsense"))
    assert _run("lint", "--policy", site)[0] == 3


def test_test_reads_a_settings_directory(site):
    code, out = _run("test", "--policy", site, "--json", "--min-coverage", "100")
    assert code == 0
    found = json.loads(out)
    assert (len(found["cases"]), found["coverage"]) == (2, 1)


@pytest.mark.parametrize("missing", ["site.policytest", "30-site.policy"])
def test_test_of_nothing_is_an_error(site, missing):
    (site / "policy.d" / missing).unlink()
    code, text = _run("test", "--policy", site)
    assert (code, " to test in " in text) == (1, True)


def test_test_decides_as_the_broker_with_the_records(site):
    """A record's denial fails the expectation that rules alone would meet."""
    (site / "policy.d" / "30-site.policy").write_text("vitrail.Audio * * * allow\n")
    (site / "policy.d" / "site.policytest").write_text(
        "vitrail.Audio work you -> allow\n"
    )
    assert _run("test", "--policy", site)[0] == 1
    record = site / "sandboxes.d" / "work.toml"
    record.write_text('audio = "allow"\n' + record.read_text())
    code, out = _run("test", "--policy", site)
    assert code == 0, out


def test_diff_of_two_settings_directories_shows_the_change(site):
    other = site.parent / "other"
    os.system(f"cp -a {site} {other}")
    assert _run("diff", site, other)[0] == 0
    (other / "policy.d" / "30-site.policy").write_text(RULES.replace("allow", "ask"))
    code, out = _run("diff", site, other)
    assert code == 1
    assert "vitrail.FileCopy+(any other) work → vault" in out


@pytest.mark.parametrize("name", ["My Rules.policy", "before.txt", ".x", "ä"])
def test_diff_takes_single_files_of_any_name(site, name):
    """Not only of a broker's directory, whose names have an order."""
    old, new = site.parent / name, site.parent / f"new {name}"
    old.write_text(RULES)
    new.write_text(RULES.replace("allow", "ask"))
    code, out = _run("diff", old, new, "--world", _world(site))
    assert code == 1, out
    assert "work → vault" in out


def test_diff_of_two_settings_directories_lists_changed_records(site):
    other = site.parent / "other"
    os.system(f"cp -a {site} {other}")
    record = other / "sandboxes.d" / "work.toml"
    record.write_text(record.read_text().replace("blue", "green"))
    code, out = _run("diff", site, other)
    assert code == 1
    assert "record work: label.colour" in out


def test_documented_ci_line_fails_for_a_site_with_a_mistake(site):
    """The line of docs/policy.md, on a good site and on one whose rule was changed."""
    line = (
        ("check", site),
        ("lint", "--policy", site),
        ("test", "--policy", site, "--min-coverage", "90", "--junit"),
    )
    assert [_run(*words)[0] for words in line] == [0, 0, 0]
    (site / "policy.d" / "30-site.policy").write_text(RULES.replace("deny", "allow"))
    assert [_run(*words)[0] for words in line][-1] == 1


@pytest.mark.parametrize("person", ["@adminvm", "you", "dom0"])
def test_calls_of_the_user_are_decided_by_rules_alone(site, person):
    """No record is the user's; ``eval``, ``explain`` and ``test`` agree."""
    file = site / "policy.d" / "20-user.policy"
    file.write_text("vitrail.OpenFile * @adminvm vault allow\n")
    call = ("vitrail.OpenFile", person, "vault", "--policy", site, "--json")
    for verb in ("eval", "explain"):
        code, out = _run(verb, *call)
        assert (code, json.loads(out)["decision"]) == (0, "allow"), verb
    cases = site / "policy.d" / "user.policytest"
    cases.write_text(f"vitrail.OpenFile {person} vault -> allow\n")
    assert _run("test", cases, "--policy", site)[0] == 0


def test_user_is_in_effective_and_graph(site):
    file = site / "policy.d" / "20-user.policy"
    file.write_text("vitrail.OpenFile * @adminvm vault allow\n")
    code, out = _run("effective", "vault", "--policy", site, "--json")
    assert code == 0
    services = {
        grant["call"]["service"]: grant["call"] for grant in json.loads(out)["to"]
    }
    assert services["vitrail.OpenFile"]["source"] == "dom0"
    code, out = _run("effective", "you", "--policy", site)
    assert "vitrail.OpenFile" in out
    code, out = _run("graph", "--policy", site, "--json")
    found = json.loads(out)["flows"]
    assert ("dom0", "vault") in {(flow["source"], flow["target"]) for flow in found}


def test_explain_with_an_empty_target_is_about_no_target(site):
    """As ``eval`` reads it, and not about this desktop."""
    code, out = _run(
        "explain", "vitrail.FileCopy", "work", "", "--policy", site, "--json"
    )
    assert json.loads(out)["call"]["target"] == ""
    assert code == 1


def test_explain_of_an_address_without_target_lets_a_rule_choose(site):
    """A sandbox's program names no target: a rule for this desktop is not the answer."""
    (site / "30-site.policy").write_text(
        "vitrail.OpenURL * work @default allow target=vault\n"
    )
    code, out = _run("explain", "vitrail.OpenURL", "work", "--policy", site, "--json")
    assert json.loads(out)["call"]["target"] == "@default"
    assert code == 0
    _, out = _run("explain", "vitrail.FileCopy", "work", "--policy", site, "--json")
    assert json.loads(out)["call"]["target"] == "@adminvm"


def test_diff_shows_each_condition_whose_answer_changes(site):
    """Also where the call without a condition changes in another way."""
    old, new = site.parent / "old.policy", site.parent / "new.policy"
    old.write_text("vitrail.OpenURL * work vault allow\n")
    new.write_text(
        "vitrail.OpenURL * work vault ask scheme=http\nvitrail.OpenURL * work vault deny\n"
    )
    code, out = _run("diff", old, new, "--json", "--world", _world(site))
    assert code == 1
    answers = {
        (change["call"].get("scheme", ""), change["new"]["decision"])
        for change in json.loads(out)["changes"]
    }
    assert answers == {("", "deny"), ("http", "ask")}


def test_diff_joins_classes_that_change_in_the_same_way(site):
    """The user is one row, and sandboxes that rules tell apart are listed together."""
    old, new = site.parent / "old.policy", site.parent / "new.policy"
    old.write_text(
        "vitrail.FileCopy * work vault allow\nvitrail.FileCopy * @anyvm @anyvm allow\n"
    )
    new.write_text(
        "vitrail.FileCopy * work vault deny\nvitrail.FileCopy * @anyvm @anyvm deny\n"
    )
    code, out = _run("diff", old, new, "--json", "--world", _world(site))
    assert code == 1
    changes = json.loads(out)["changes"]
    assert not any("dom0" in change["targets"] for change in changes)
    assert len(changes) == 5


def _world(site):
    file = site.parent / "world.json"
    names = ("work", "vault", "a", "b")
    file.write_text(
        json.dumps({"domains": {name: {"type": "persistent"} for name in names}})
    )
    return file


def test_explain_advises_no_line_for_a_service_that_does_not_exist(site):
    code, out = _run("explain", "vitrail.OpenURLs", "work", "vault", "--policy", site)
    assert code == 1
    assert "did you mean 'vitrail.OpenURL'?" in out
    assert "to get" not in out


def test_explain_names_the_command_that_adds_its_line(site):
    code, out = _run("explain", "vitrail.FileCopy", "vault", "work", "--policy", site)
    assert code == 1
    assert "brokerctl policy edit 30-site" in out
    code, out = _run("explain", "vitrail.OpenURL", "vault", "work", "--policy", site)
    assert "brokerctl policy edit\n" in out


@pytest.mark.parametrize("verb", ["check", "lint"])
def test_check_and_lint_read_a_directory_that_is_named_in_either_way(site, verb):
    by_word, by_option = _run(verb, site), _run(verb, "--policy", site)
    assert by_word == by_option
    assert by_word[0] == 0
    (site / "policy.d" / "10-a.policy").write_text("a * work vault alow\n")
    assert _run(verb, site)[0] == _run(verb, "--policy", site)[0] != 0

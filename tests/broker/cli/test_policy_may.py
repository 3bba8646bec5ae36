"""Every tool answers as the broker does: record, all rules, and the shipped ones."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from broker.cli.policy.verbs import command
from tests.kit.world import record


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    """Two records and no rules but those that came with the program."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    config = tmp_path / ".config" / "vitrail"
    for name, text in {
        "web": record(),
        "quiet": record("persistent", display="none"),
    }.items():
        file = config / "sandboxes.d" / f"{name}.toml"
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)

    def run(*words):
        done = CliRunner().invoke(command, [str(word) for word in words])
        return done

    run.config = config
    return run


def rules(run, text):
    folder = run.config / "policy.d"
    folder.mkdir(mode=0o755, exist_ok=True)
    file = folder / "30-user.policy"
    file.write_text(text)
    file.chmod(0o644)
    return file


@pytest.mark.parametrize("service", ["vitrail.Display", "Display", "display"])
@pytest.mark.parametrize("target", ["@adminvm", "you", "dom0"])
@pytest.mark.parametrize("verb", ["eval", "explain"])
def test_the_record_s_deny_is_the_answer(run, verb, service, target):
    done = run(verb, service, "quiet", target, "--json")
    said = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (said["decision"], said["record"]["decision"]) == ("deny", "deny")
    assert said["record"]["where"].endswith("quiet.toml:2:1")
    allowed = json.loads(run(verb, service, "web", target, "--json").stdout)
    assert (allowed["decision"], allowed["record"]["decision"]) == ("allow", "allow")
    assert allowed["file"].endswith("99-vitrail.policy")


@pytest.mark.parametrize("verb", ["eval", "explain"])
def test_both_lines_are_named(run, verb):
    file = rules(run, "vitrail.Display * web @adminvm ask\n")
    done = run(verb, "Display", "web", "you")
    assert f"{file}:1" in done.stdout
    assert "web.toml:2:1" in done.stdout


@pytest.mark.parametrize("action", ["ask default_target=@adminvm", "allow"])
@pytest.mark.parametrize("verb", ["eval", "explain"])
def test_the_user_is_you_in_answers(run, verb, action):
    rules(run, f"vitrail.Display * web @adminvm {action}\n")
    shown = run(verb, "Display", "web", "you").stdout
    answer = shown.partition("  rule:")[0].replace(f"@adminvm {action}", "")
    assert " you" in answer
    assert "dom0" not in shown


def test_a_disposable_is_of_its_record(run):
    said = json.loads(run("eval", "Display", "web-1234", "you", "--json").stdout)
    assert said["decision"] == "allow"


def test_typos_are_known(run):
    wrong = run("eval", "Display", "wev", "you")
    assert wrong.exit_code == 2
    assert "did you mean 'web'?" in wrong.stderr
    service = run("eval", "vitrail.Dispaly", "web", "you")
    assert service.exit_code == 1
    assert "did you mean 'vitrail.Display'?" in service.stderr


def test_effective_leaves_out_what_the_record_denies(run):
    def services(name):
        done = run("effective", name, "--json")
        return {grant["call"]["service"] for grant in json.loads(done.stdout)["from"]}

    assert "vitrail.Display" in services("web")
    assert "vitrail.Display" not in services("quiet")


def test_show_has_the_rules(run):
    rules(run, "vitrail.Display * web @adminvm deny\n")
    said = json.loads(run("show", "web", "--json").stdout)["decisions"]
    assert said["vitrail.Display"]["verdict"] == "deny"
    assert said["vitrail.Display"]["where"].endswith("30-user.policy:1")
    assert said["vitrail.Agent"]["where"].endswith("99-vitrail.policy:13")
    assert "30-user.policy:1" in run("show", "web").stdout


def test_check_looks_into_a_settings_directory(run):
    rules(run, "vitrail.Display * web @adminvm perhaps\n")
    done = run("check", run.config)
    assert done.exit_code == 1
    assert "30-user.policy:1" in done.stdout + done.stderr


def test_check_of_nothing_fails(run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("check", empty).exit_code == 1
    (empty / "policy.d").mkdir()
    assert run("check", empty).exit_code == 1

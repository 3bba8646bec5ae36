"""``brokerctl new --for``: the record of a purpose, and the rules that go with it."""

from __future__ import annotations

import os

import pytest

from broker.cli.sandboxes.presets import FOLDER, PRESETS, record_text
from tests.kit.brokerctl import called, home, paths_of


@pytest.fixture
def env():
    with home() as made:
        yield made


def files_of(env):
    base = paths_of(env).config[0]
    return {path.name for path in base.glob("*.d/*")}


def test_each_purpose_has_a_record_and_each_record_a_purpose():
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_purpose_is_a_whole_sandbox(env, preset):
    """The set has no problem, and each rule decides what it is there for."""
    assert called("policy", "starter", env=env).code == 0
    made = called("new", "mine", "--for", preset, env=env)
    assert made.code == 0, made
    checked = called("policy", "check", env=env)
    assert checked.code == 0, checked
    lint = called("policy", "lint", env=env)
    assert "40-mine.policy" not in lint.out, lint.out
    for rule in PRESETS[preset].rules:
        assert rule.split()[0] in made.err
    assert ("40-mine.policy" in files_of(env)) is bool(PRESETS[preset].rules)


def decision(env, service, *words):
    return (
        called("policy", "explain", service, *words, env=env).out.split()[0].rstrip(":")
    )


def test_what_harms_nobody_is_allowed_and_what_crosses_asks(env):
    called("policy", "starter", env=env)
    called("new", "talk", "--for", "chat", env=env)
    called("new", "surf", "--for", "browser", env=env)
    assert decision(env, "vitrail.Settings", "talk", "@adminvm") == "allow"
    assert decision(env, "vitrail.Camera", "talk", "@adminvm") == "ask"
    assert decision(env, "vitrail.ScreenShare", "talk", "@adminvm") == "ask"
    assert decision(env, "vitrail.Camera", "surf", "@adminvm") == "ask"
    assert decision(env, "vitrail.ScreenShare", "surf", "@adminvm") == "deny"
    assert decision(env, "vitrail.Secret", "talk", "@adminvm") == "deny"


def test_rules_that_open_elsewhere_wait_for_the_records_of_elsewhere(env):
    made = called("new", "post", "--for", "mail", env=env)
    assert "no record is named 'viewer' or 'web'; to" in made.err
    assert "run 'brokerctl policy starter'" in made.err
    assert "brokerctl allow" not in made.err
    record = (paths_of(env).config[0] / "sandboxes.d" / "post.toml").read_text()
    assert "default_disposable" not in record
    assert "no-disposable" not in called("policy", "lint", env=env).out
    text = (paths_of(env).config[0] / "policy.d" / "40-post.policy").read_text()
    assert "@dispvm:web" not in text
    assert "vitrail.Notification" in text
    assert called("policy", "check", env=env).code == 0


def test_rules_that_open_links_in_a_box_are_left_out(env):
    """A box does not start for an address, so such a rule would only deny it."""
    called("policy", "starter", env=env)
    called("sandbox", "remove", "web", "--yes", env=env)
    called("new", "web", "--for", "browser", "--in", "box", env=env)
    result = called("new", "post", "--for", "mail", env=env)
    assert "cannot be opened in 'web': a box or container" in result.err
    base = paths_of(env).config[0]
    rules = (base / "policy.d" / "40-post.policy").read_text()
    assert "@dispvm:viewer" in rules
    assert "@dispvm:web" not in rules
    record = (base / "sandboxes.d" / "post.toml").read_text()
    assert "default_disposable" not in record


def test_rules_that_open_elsewhere_need_only_the_record_after_the_starter(env):
    called("policy", "starter", env=env)
    (paths_of(env).config[0] / "sandboxes.d" / "web.toml").unlink()
    made = called("new", "post", "--for", "development", "--in", "box", env=env)
    assert (
        "no record is named 'web'; to change that, run 'brokerctl new web'" in made.err
    )


def test_a_disposable_that_is_there_is_the_default(env):
    called("policy", "starter", env=env)
    called("new", "post", "--for", "mail", env=env)
    record = (paths_of(env).config[0] / "sandboxes.d" / "post.toml").read_text()
    assert 'default_disposable = "web"' in record


@pytest.mark.parametrize(("runner", "memory"), [("box", False), ("podman=a/b:1", True)])
def test_room_for_a_browser_is_of_kinds_that_have_memory(env, runner, memory):
    argv = ("--for", "browser", "--in", runner, "--command", "chromium")
    answer = called("new", "surf", *argv, env=env)
    assert answer.code == 0, answer
    record = (paths_of(env).config[0] / "sandboxes.d" / "surf.toml").read_text()
    assert ("memory" in record) is memory


def test_a_record_without_its_rules(env):
    made = called("new", "post", "--for", "mail", "--no-rules", env=env)
    assert made.code == 0
    assert "40-post.policy" not in files_of(env)


def test_rules_that_are_there_stay(env):
    folder = paths_of(env).config[0] / "policy.d"
    folder.mkdir(parents=True)
    mine = folder / "40-post.policy"
    mine.write_text("# mine\n")
    assert "stays as it is" in called("new", "post", "--for", "mail", env=env).err
    assert mine.read_text() == "# mine\n"


def test_a_purpose_and_an_example_are_two_beginnings(env):
    made = called("new", "post", "--for", "mail", "--from", "web", env=env)
    assert made.code == 1
    assert files_of(env) == set()


def test_other_values_are_those_that_were_asked_for(env):
    words = ("--for", "office", "--memory", "3G", "-p", "gimp")
    assert called("new", "post", *words, env=env).code == 0
    assert called("get", "post", "memory", env=env).out == "3G\n"
    assert called("get", "post", "packages", env=env).out == "gimp\n"


def test_without_a_terminal_nothing_is_asked(env):
    assert not os.isatty(0) or pytest.skip("standard input is a terminal")
    made = called("new", "post", env=env)
    assert made.code == 0
    assert "created from 'demo'" in made.err


RUNNERS = {
    "box": ("bwrap", ""),
    "podman=localhost/mine:1": ("podman", 'container_image = "localhost/mine:1"'),
    "flatpak=org.mozilla.firefox": ("flatpak", 'app = "org.mozilla.firefox"'),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_purpose_in_what_the_user_already_has(env, preset, runner):
    """Its rules, label, sound and looks are the same; only what starts it is another."""
    assert called("policy", "starter", env=env).code == 0
    made = called("new", "mine", "--for", preset, "--in", runner, env=env)
    assert made.code == 0, made
    checked = called("policy", "check", env=env)
    assert checked.code == 0, checked
    kind, line = RUNNERS[runner]
    text = (paths_of(env).config[0] / "sandboxes.d" / "mine.toml").read_text()
    assert f'kind = "{kind}"' in text
    assert line in text
    network = 'network = "user"' in record_text(preset)
    shared = "share_network = true" if kind == "flatpak" else 'network = "user"'
    assert (shared in text) is network
    assert ("40-mine.policy" in files_of(env)) is bool(PRESETS[preset].rules)


@pytest.mark.parametrize("runner", ["docker", "podman", "box=1", "flatpak=", ""])
def test_another_word_for_what_starts_it(env, runner):
    made = called("new", "mine", "--for", "media", "--in", runner, env=env)
    assert made.code == 1
    assert "starts no sandbox" in made.err
    assert files_of(env) == set()


def test_what_starts_it_belongs_to_a_purpose(env):
    answer = called("new", "mine", "--in", "box", env=env)
    assert answer.code == 1
    assert "--for" in answer.err


def test_a_box_has_the_programs_of_this_machine(env):
    made = called(
        "new", "talk", "--for", "chat", "--in", "box", env=env | {"PATH": "/none"}
    )
    assert "dino is not installed on this machine" in made.err

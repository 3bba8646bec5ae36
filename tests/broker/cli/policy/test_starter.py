"""``brokerctl policy starter``: clean beside the examples, and asks instead of allowing."""

from __future__ import annotations

from pathlib import Path

from broker.cli.policy.starter import NAME, has_rules, install_starter
from broker.core.paths import find_paths
from policy.records.loader import load_records
from policy.rules.engine import Engine, PolicyCall
from policy.rules.rulefiles import SHIPPED, load_rules
from policy.rules.world import world_of
from tests.kit.brokerctl import called, home, paths_of

SERVICES = ("ClipboardPaste", "FileCopy", "OpenURL", "OpenFile")


def test_it_is_clean_with_every_shipped_example():
    with home() as env:
        for name in (
            "demo",
            "work",
            "personal",
            "banking",
            "untrusted",
            "web",
            "viewer",
        ):
            made = called("new", name, "--from", name, "--no-menu", env=env)
            assert made.code == 0, made.err
        assert called("policy", "starter", env=env).code == 0
        for verb in ("check", "lint"):
            answer = called("policy", verb, env=env)
            assert answer.code == 0, answer.out + answer.err


def test_with_one_sandbox_it_brings_the_disposables_that_it_names():
    with home() as env:
        assert called("new", "mine", "--no-menu", env=env).code == 0
        made = called("policy", "starter", "--json", env=env)
        names = [Path(file).name for file in made.objects[0]["written"]]
        assert [name for name in names if name.endswith((".policy", ".toml"))] == [
            NAME,
            "web.toml",
            "viewer.toml",
        ]
        for name in ("web", "viewer"):
            assert f"vitrail-sandbox-{name}.desktop" in names
        record = paths_of(env).config[0] / "sandboxes.d/web.toml"
        schema = record.read_text().splitlines()[0].removeprefix("#:schema file://")
        assert Path(schema).is_file()
        answer = called("policy", "lint", env=env)
        assert answer.code == 0, answer.out + answer.err
        again = called("policy", "starter", env=env)
        assert (again.code, "already exists" in again.err) == (1, True)


def test_no_sandbox_is_allowed_anything_without_a_question(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp"}
    paths = find_paths(env)
    assert not has_rules(paths)
    install_starter(paths)
    assert has_rules(paths)
    base = paths.config[0]
    (base / "sandboxes.d/a.toml").write_text('class = "persistent"\n')
    (base / "sandboxes.d/b.toml").write_text('class = "persistent"\n')
    rules = load_rules([base / "policy.d"], shipped=SHIPPED)
    assert not rules.problems
    engine, world = Engine(rules), world_of(load_records([base / "sandboxes.d"]))

    def verdicts(service, *sources):
        return {
            engine.answer(
                PolicyCall(f"vitrail.{service}", "+", source, target, scheme="https"),
                world,
            ).verdict
            for source in sources
            for target in ("a", "b", "@adminvm", "", "@dispvm:web")
        }

    for service in SERVICES:
        found = verdicts(service, "a", "b")
        assert "allow" not in found
        assert "ask" in found
        # What the user opens is opened in a fresh sandbox; the user's paste is asked about.
        own = service.startswith("Open")
        assert ("allow" in verdicts(service, "@adminvm")) is own
    for service, target in (("OpenURL", "@dispvm:web"), ("OpenFile", "@dispvm:viewer")):
        opened = PolicyCall(f"vitrail.{service}", "+", "@adminvm", "", scheme="https")
        answer = engine.answer(opened, world)
        assert (answer.verdict, answer.target) == ("allow", target)
    # Without it a copy never reaches the user's own programs, and nothing says why.
    copied = PolicyCall("vitrail.ClipboardPaste", "+", "a", "@adminvm")
    assert engine.answer(copied, world).verdict == "ask"
    asked = engine.answer(
        PolicyCall("vitrail.OpenURL", "+", "a", "", scheme="https"), world
    )
    assert asked.targets == ("@dispvm:web",)


def test_the_first_sandbox_offers_it():
    with home() as env:
        made = called("new", "mine", "--no-menu", env=env)
        assert "brokerctl policy starter" in made.err
        assert called("policy", "starter", env=env).code == 0
        second = called("new", "other", "--no-menu", env=env)
        assert "brokerctl policy starter" not in second.err

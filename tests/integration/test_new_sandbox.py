"""``brokerctl new`` and ``list``: a sandbox of one's own."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
import xml.dom.minidom
from pathlib import Path

import msgspec
import pytest

from broker.ipc.control.api import SandboxStatus
from policy.records.loader import load_records
from tests.kit.brokerctl import brokerctl, paths_of
from tests.kit.control import ScriptedBroker, serving


def record_of(env, name):
    folder = paths_of(env).config[0] / "sandboxes.d"
    found = load_records([folder])
    assert not found.problems, [p.render() for p in found.problems]
    return found.records[name]


async def test_a_browser_with_its_label_and_its_entry(env):
    answer = await brokerctl(
        *("new", "bank", "--package", "firefox-esr", "--label", "red"), env=env
    )
    assert answer.code == 0, answer.err
    assert "brokerctl run bank" in answer.err
    record = record_of(env, "bank")
    launch = record.host.launch
    assert launch.packages == ("firefox-esr",)
    assert (launch.image, launch.network) == ("bank", "user")
    assert launch.command == ("firefox-esr",)
    assert launch.memory_mib == 2048
    assert record.viewer.label.name == "bank"
    share = Path(env["HOME"]) / ".local/share"
    entry = (share / "applications/vitrail-sandbox-bank.desktop").read_text()
    main = entry.split("\n\n", 1)[0]
    keys = dict(line.split("=", 1) for line in main.splitlines()[1:])
    words = shlex.split(keys["Exec"])
    assert words[1:] == ["menu", "start", "bank"]
    assert keys["Icon"].endswith(".svg")
    icon = Path(keys["Icon"])
    assert record.viewer.label.colour in icon.read_text()
    assert xml.dom.minidom.parse(str(icon)).documentElement.tagName == "svg"
    if shutil.which("desktop-file-validate"):
        file = share / "applications/vitrail-sandbox-bank.desktop"
        subprocess.run(["desktop-file-validate", file], check=True)


async def test_a_second_one_of_the_name_changes_nothing(env):
    assert (await brokerctl("new", "mine", env=env)).code == 0
    file = paths_of(env).config[0] / "sandboxes.d" / "mine.toml"
    before = file.read_text()
    again = await brokerctl("new", "mine", "--label", "red", env=env)
    assert again.code == 1
    assert "a record named 'mine' already exists" in again.err
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Bad Name"], "is not a sandbox name"),
        (["dom0"], "the word means you, the user"),
        (["you"], "the word means you, the user"),
        (["x", "--from", "wbe"], "did you mean 'web'?"),
        (["x", "--label", "reddish"], '"reddish" is not allowed here'),
        (["x", "--memory", "a lot"], "memory"),
        (["x", "--package", "two words"], "packages"),
    ],
)
async def test_an_impossible_record_is_not_written(env, words, said):
    answer = await brokerctl("new", *words, env=env)
    assert answer.code == 1
    assert said in answer.err + answer.out
    assert not list(Path(env["HOME"]).rglob("*.toml"))
    assert not list(Path(env["HOME"]).rglob("*.desktop"))


async def test_each_new_sandbox_gets_a_colour_of_its_own(env):
    """All had the example's, with a warning that no second 'new' could follow."""
    (paths_of(env).runtime / "sandboxes.d").mkdir(mode=0o700)
    box = paths_of(env).runtime / "sandboxes.d" / "box-12ab34.toml"
    box.write_text('class = "disposable"\n[label]\ncolour = "orange"\n')
    seen = []
    for name in ("one", "two", "three", "four"):
        answer = await brokerctl("new", name, "--no-menu", env=env)
        assert answer.code == 0, answer.err
        assert "looks like" not in answer.err
        assert "same colour" not in answer.err
        seen.append(record_of(env, name).viewer.label.colour)
    assert seen[:2] == ["#009e73", "#e69f00"], "that of a box that runs is not taken"
    assert len({*seen}) == 4
    chosen = await brokerctl("new", "five", "--label", "green", "--no-menu", env=env)
    assert "'one' has the same colour" in chosen.err
    for name in ("six", "seven", "eight"):
        assert (await brokerctl("new", name, "--no-menu", env=env)).code == 0
        seen.append(record_of(env, name).viewer.label.colour)
    assert len({*seen}) == 7, "colours that are like others, but no colour twice"
    text = (paths_of(env).config[0] / "sandboxes.d" / "one.toml").read_text()
    schema = text.splitlines()[0].removeprefix("#:schema file://")
    assert json.loads(Path(schema).read_text())["type"] == "object"


async def test_every_example_and_one_s_own_record_can_be_begun_from(env):
    for number, name in enumerate(["demo", "web", "work", "banking", "viewer"]):
        made = f"a{number}"
        answer = await brokerctl("new", made, "--from", name, "--no-menu", env=env)
        assert answer.code == 0, answer.err
        assert record_of(env, made).viewer.label.name == made
    assert (await brokerctl("new", "b", "--from", "a1", env=env)).code == 0
    own = paths_of(env).config[0] / "sandboxes.d" / "b.toml"
    assert tomllib.loads(own.read_text())["launch"]["command"] == ["firefox-esr"]


async def test_list_shows_what_can_be_run_and_what_runs(env):
    empty = await brokerctl("list", env=env)
    assert "brokerctl new" in empty.err
    await brokerctl("new", "web", "--from", "web", env=env)
    await brokerctl("new", "other", env=env)
    api = ScriptedBroker()
    sandbox = SandboxStatus(
        name="web-1234",
        record="web",
        sandbox_class="disposable",
        label="web",
        state="running",
        since=1_790_000_000.0,
    )
    api.state = msgspec.structs.replace(api.state, sandboxes=[sandbox])
    async with serving(paths_of(env).control, api):
        shown = await brokerctl("list", env=env)
        (objects,) = (await brokerctl("list", "--json", env=env)).objects
    assert re.search(r"^web .*user.*firefox-esr.*web-1234$", shown.out, re.MULTILINE)
    by_name = {record["name"]: record for record in objects["records"]}
    assert by_name["web"]["running"] == ["web-1234"]
    assert by_name["other"]["running"] == []


async def test_an_unknown_name_offers_it(env):
    answer = await brokerctl("run", "mybrowser", env=env)
    assert answer.code == 1
    assert "brokerctl new mybrowser" in answer.err


async def test_the_desktop_s_time_zone_by_choice(env):
    for name, words in (("a", ()), ("b", ("--timezone", "desktop"))):
        answer = await brokerctl("new", name, *words, "--no-menu", env=env)
        assert answer.code == 0, answer.err
    assert record_of(env, "a").viewer.timezone == "utc"
    assert record_of(env, "b").viewer.timezone == "desktop"


async def test_the_host_s_files_by_choice(env):
    words = ("--host-files", "fonts", "--host-files", "certificates")
    answer = await brokerctl("new", "b", *words, "--no-menu", env=env)
    assert answer.code == 0, answer.err
    assert record_of(env, "b").host.launch.host_files == ("fonts", "certificates")
    wrong = await brokerctl("new", "c", "--host-files", "home", env=env)
    assert wrong.code == 2
    assert "certificates" in wrong.err


async def test_one_that_keeps_nothing_is_removed_when_it_does_not_run(env):
    """Record and menu entry; while a sandbox of it runs, nothing is removed."""
    await brokerctl("new", "mine", env=env)
    api = ScriptedBroker()
    sandbox = SandboxStatus(
        name="mine-12",
        record="mine",
        sandbox_class="disposable",
        label="mine",
        color="#ff0000",
        state="running",
        since=0.0,
    )
    api.state = msgspec.structs.replace(api.state, sandboxes=[sandbox])
    remove = ("sandbox", "remove", "mine", "--yes")
    async with serving(paths_of(env).control, api):
        refused = await brokerctl(*remove, env=env)
        assert (refused.code, "brokerctl stop mine" in refused.err) == (1, True)
        record_of(env, "mine")
        api.state = msgspec.structs.replace(api.state, sandboxes=[])
        assert (await brokerctl(*remove, env=env)).code == 0
    left = [path for path in Path(env["HOME"]).rglob("*mine*") if path.is_file()]
    assert not left


async def test_the_example_of_the_name_is_preferred_and_told(env):
    made = await brokerctl("new", "banking", "--no-menu", env=env)
    assert made.code == 0, made.err
    assert "created from 'banking', persistent" in made.err
    assert record_of(env, "banking").host.launch.command == ("firefox-esr",)
    other = await brokerctl("new", "other", "--no-menu", env=env)
    assert "created from 'demo', disposable" in other.err


async def test_a_colour_that_looks_like_another_s_is_told(env):
    await brokerctl("new", "a", "--label", "#d55e00", "--no-menu", env=env)
    made = await brokerctl("new", "b", "--label", "#e69f00", "--no-menu", env=env)
    assert "#e69f00 looks like #d55e00 of 'a'" in made.err
    same = await brokerctl("new", "c", "--label", "#d55e00", "--no-menu", env=env)
    assert "'a' has the same colour" in same.err
    apart = await brokerctl("new", "d", "--label", "blue", "--no-menu", env=env)
    assert "looks like" not in apart.err


async def test_the_hint_of_a_second_one_works(env):
    """'policy edit NAME', as the refusal writes it, edits the record."""
    await brokerctl("new", "work", "--no-menu", env=env)
    again = await brokerctl("new", "work", "--no-menu", env=env)
    assert "'brokerctl policy edit work'" in again.err
    edited = await brokerctl("policy", "edit", "work", env={**env, "EDITOR": "true"})
    assert edited.code == 0, edited.err
    assert "nothing was changed" in edited.err

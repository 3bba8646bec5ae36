"""``brokerctl policy``: output, JSON and exit codes, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.kit.brokerctl import called

BROKERCTL = [sys.executable, "-c", "from broker.cli.app import main; main()"]


@pytest.fixture(name="world")
def _world():
    """A home, a runtime directory and a system configuration, all empty.

    Not in pytest's directory, whose long name leaves no room for sockets.
    """
    with tempfile.TemporaryDirectory(prefix="v-") as base:
        for name in ("home", "run", "system"):
            (Path(base) / name).mkdir(mode=0o700)
        yield Path(base)


def _run(world, *words):
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(world / "home"),
        "XDG_RUNTIME_DIR": str(world / "run"),
        "XDG_CONFIG_DIRS": str(world / "system"),
        "COLUMNS": "200",
    }
    answer = called("policy", *words, env=env)
    return answer.code, answer.out, answer.err


def _record(world, where, name, text):
    folder = {
        "user": world / "home" / ".config" / "vitrail" / "sandboxes.d",
        "system": world / "system" / "vitrail" / "sandboxes.d",
        "run": world / "run" / "vitrail" / "sandboxes.d",
    }[where]
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    file = folder / f"{name}.toml"
    file.write_text(text)
    file.chmod(0o644)
    return file


OPEN = 'class = "disposable"\ndisplay = "allow"\n'


def test_check_of_a_fresh_machine(world):
    """Nothing there is nothing wrong, and it says where it looked."""
    code, out, err = _run(world, "check")
    assert (code, out) == (0, "")
    assert "no records in" in err
    assert str(world / "home" / ".config" / "vitrail" / "sandboxes.d") in err


def test_check_reports_every_problem(world):
    """Place, line and caret on standard output, the count beside; exit code 1."""
    first = _record(world, "user", "demo", 'class = disposable\ncolour = "red"\n')
    second = _record(world, "system", "web", OPEN + 'display = "allow"\n')
    _record(world, "system", "good", OPEN)
    code, out, err = _run(world, "check")
    assert code == 1
    assert out.split("\n") == [
        f"{first}:1:9: 'disposable' is not a value",
        "  | class = disposable",
        "  |         ^^^^^^^^^^",
        '  hint: write text in quotes: "disposable"',
        f"{first}:2:1: unknown key 'colour'",
        '  | colour = "red"',
        "  | ^^^^^^",
        (
            "  expected: name, inherits, class, tags, display, timezone, autostart, logs, default_disposable, services, mounts, disks, "
            "label, window, audio, clipboard, transfer, looks, network, folders, launch, state, peer, limits"
        ),
        "  hint: move 'colour' to [label]",
        f"{second}:3:1: the key 'display' is already defined above",
        '  | display = "allow"',
        "  | ^^^^^^^",
        "  hint: remove one of the two; the other is on line 2",
        "",
    ]
    assert "problems: 3; records: 1 can be used, 2 cannot" in err


def test_check_counts_the_records_of_runs_apart(world):
    """A box that runs has one, which its user has not written."""
    _record(world, "user", "demo", OPEN)
    _record(world, "run", "box-12ab34", OPEN)
    code, _, err = _run(world, "check")
    assert code == 0
    assert "records: 1 can be used, 0 cannot; temporary records of runs: 1" in err


def test_check_as_json(world):
    """One object; the same exit code."""
    file = _record(world, "user", "demo", OPEN + "[lanch]\n")
    code, out, _ = _run(world, "check", "--json")
    assert code == 1
    answer = json.loads(out)
    assert answer["records"] == []
    assert answer["broken"] == ["demo"]
    (problem,) = answer["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == (str(file), 3, 2)
    assert problem["hint"] == "did you mean 'launch'?"


def test_check_of_paths(world):
    """Files by themselves, directories as the broker reads them."""
    good = _record(world, "user", "demo", OPEN)
    good.chmod(0o666)
    assert _run(world, "check", str(good))[0] == 0
    code, out, _ = _run(world, "check", str(good.parent))
    assert code == 1
    assert "is writable by others (mode 0666)" in out


def test_wrong_calls_end_with_2(world):
    """A path that is not there, an option that is not known."""
    assert _run(world, "check", "/nonexistent")[0] == 2
    assert _run(world, "check", "--jsn")[0] == 2
    assert _run(world, "shwo")[0] == 2


def test_check_works_where_no_session_runs(world):
    """No XDG_RUNTIME_DIR, no broker: the files can be checked all the same."""
    _record(world, "user", "demo", OPEN)
    env = {"PATH": os.environ["PATH"], "HOME": str(world / "home")}
    done = subprocess.run(
        [*BROKERCTL, "policy", "check"],
        env=env, cwd=Path(__file__).parents[4], capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0


def test_show_says_where_each_value_comes_from(world):
    """Set keys name their line, the others say default."""
    file = _record(world, "user", "demo", OPEN)
    code, out, _ = _run(world, "show", "demo")
    assert code == 0
    lines = out.split("\n")
    assert lines[0] == str(file)
    rows = {words[0]: words[1:] for line in lines[2:] if (words := line.split())}
    assert rows["display"] == ["allow", "line", "2"]
    assert rows["launch.network"] == ["none", "default"]
    assert rows["launch.command"] == ['["foot"]', "default"]
    assert "    the record 'demo' has display = \"allow\"" in out


def test_show_says_that_a_network_without_rules_is_reached(world):
    """The broker decides nothing about it, and a 'deny' would say the opposite."""
    text = OPEN + '[launch]\nkind = "bwrap"\nnetwork = "user"\n'
    for network, said in (("user", "without a rule"), ("none", "deny")):
        _record(world, "user", "demo", text.replace('"user"', f'"{network}"'))
        code, out, _ = _run(world, "show", "demo")
        assert code == 0
        (line,) = [x for x in out.split("\n") if x.startswith("vitrail.Network: ")]
        why = f"the record 'demo' has network = \"{network}\""
        assert line.startswith(f"vitrail.Network: {said}, because {why}")


def test_show_as_json(world):
    """The runtime directory comes first; every value with its place."""
    _record(world, "system", "demo", OPEN)
    file = _record(world, "run", "demo", 'class = "disposable"\n')
    code, out, _ = _run(world, "show", "demo", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["source"] == str(file)
    assert answer["values"]["class"] == {
        "value": "disposable",
        "where": f"{file}:1:1",
        "set": True,
    }
    assert answer["values"]["display"]["set"] is False
    assert answer["decisions"]["vitrail.Display"]["verdict"] == "deny"


@pytest.mark.parametrize(
    ("records", "name", "said"),
    [
        pytest.param(
            {},
            "demo",
            "to create a sandbox from the example 'demo', run: brokerctl new",
            id="an example",
        ),
        pytest.param(
            {},
            "nobody",
            "there are no records yet; to create a record, run: brokerctl new nobody",
            id="none at all",
        ),
        pytest.param({"demo": OPEN}, "dmeo", "did you mean 'demo'?", id="typo"),
        pytest.param({"demo": OPEN}, "zzz", "records: demo", id="another"),
        pytest.param(
            {"demo": "x"}, "demo", "has an error, so it denies everything", id="broken"
        ),
        pytest.param({}, "a\x1b[2Jb", "a\\x1b[2Jb", id="hostile"),
    ],
)
def test_show_of_a_missing_record(world, records, name, said):
    """Exit code 1 and a sentence that says what to do."""
    for record, text in records.items():
        _record(world, "user", record, text)
    code, _, err = _run(world, "show", name)
    assert code == 1
    assert said in " ".join(err.split())
    assert "\x1b[2J" not in err


def test_schema(world):
    """JSON Schema by default, the reference on request."""
    code, out, _ = _run(world, "schema")
    assert code == 0
    assert json.loads(out)["properties"]["class"]
    code, out, _ = _run(world, "schema", "--markdown")
    assert code == 0
    assert out.startswith("### Top of the file\n")


def test_json_of_a_record_has_its_tables_as_objects(world):
    """Scripts read a table's values by the keys that the record's file has."""
    tables = """
[launch]
kind = "microvm"
[services.echo]
command = ["cat"]
[[mounts]]
kind = "directory"
at = "/srv/data"
source = "/srv/here"
[[disks]]
tag = "data"
source = "/srv/data.img"
"""
    _record(world, "user", "work", OPEN + tables)
    code, out, err = _run(world, "show", "work", "--json")
    assert (code, err) == (0, "")
    values = {key: row["value"] for key, row in json.loads(out)["values"].items()}
    (service,) = values["services"]
    assert (service["name"], service["command"]) == ("echo", ["cat"])
    (mount,) = values["mounts"]
    assert (mount["at"], mount["source"]) == ("/srv/data", "/srv/here")
    (disk,) = values["disks"]
    assert (disk["source"], disk["at"]) == ("/srv/data.img", None)

"""``brokerctl policy import``: files, report, exit codes."""

from __future__ import annotations

import json
import os

from click.testing import CliRunner

from broker.cli.policy.import_from import import_from
from tests.policy.tools.test_import_qubes import RULES, STORE


def dom0(tmp_path, rules=RULES):
    folder = tmp_path / "dom0"
    (folder / "etc/qubes/policy.d").mkdir(parents=True)
    (folder / "etc/qubes/policy.d/30-user.policy").write_text(rules)
    (folder / "var/lib/qubes").mkdir(parents=True)
    (folder / "var/lib/qubes/qubes.xml").write_text(STORE)
    return folder


def run(*words):
    return CliRunner().invoke(import_from, ["qubes", *map(str, words)])


def test_a_copy_of_dom0_becomes_a_directory_with_a_report(tmp_path):
    done = run(dom0(tmp_path), "--to", tmp_path / "new")
    assert done.exit_code == 0, done.output
    assert "30-user.policy:10:37: 'dom0' means the user at the viewer" in done.output
    assert (tmp_path / "new/policy.d/30-user.policy").exists()
    assert (tmp_path / "new/sandboxes.d/work.toml").exists()
    assert "these files are not in force yet" in done.output


def test_a_directory_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "new").mkdir()
    done = run(dom0(tmp_path), "--to", tmp_path / "new")
    assert done.exit_code == 1
    assert "already exists" in str(done.exception)
    assert os.listdir(tmp_path / "new") == []


def test_rules_with_a_mistake_end_with_1_and_its_place(tmp_path):
    source = dom0(tmp_path, RULES + "qubes.Filecopy * work\n")
    done = run(source, "--to", tmp_path / "new", "--json")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert [p["where"].rsplit("/", 1)[1] for p in found["problems"]] == [
        "30-user.policy:11:1"
    ]


def test_a_directory_without_rules_or_store_is_refused(tmp_path):
    done = run(tmp_path, "--to", tmp_path / "new")
    assert done.exit_code == 1
    assert "neither rules" in str(done.exception)
    assert not (tmp_path / "new").exists()


def test_a_fifo_in_place_of_a_file_does_not_stop_it(tmp_path):
    source = dom0(tmp_path)
    store = source / "var/lib/qubes/qubes.xml"
    store.unlink()
    os.mkfifo(store)
    done = run(source, "--to", tmp_path / "new")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "new/sandboxes.d").exists()

"""Verbs of groups are loaded when they are used."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import rich_click as click

from broker.cli.audit.verbs import command as audit
from broker.cli.policy.verbs import SCHEMA_NAMES
from broker.cli.policy.verbs import command as policy
from policy.tools.schemas.schema_calls import SCHEMAS


@pytest.mark.parametrize("group", [policy, audit], ids=["policy", "audit"])
def test_each_verb_is_found_by_its_own_name(group):
    context = click.Context(group)
    assert len(group.list_commands(context)) > len(group.commands)
    for name in group.list_commands(context):
        verb = group.get_command(context, name)
        assert verb is not None
        assert verb.name == name
    assert group.get_command(context, "simulat") is None


def test_the_names_of_schemas_are_those_that_are_shipped():
    assert set(SCHEMA_NAMES) == set(SCHEMAS)


@pytest.mark.parametrize(
    "module",
    [
        *("policy.check", "policy.verbs", "audit.verbs"),
        *("sandboxes.listing", "sandboxes.labels", "wayland.windows"),
        *("run.verb", "run.shell", "run.exec"),
        *("answer", "pending", "grants", "folders.share", "folders.unshare"),
    ],
)
def test_help_questions_and_what_reads_files_need_no_event_loop(module):
    loaded = (
        f"import sys, broker.cli.{module}; "
        "print('trio' in sys.modules, 'broker.ipc.control.client' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["False", "False"]


def test_the_help_of_a_group_is_there_without_the_package_of_one_verb(tmp_path):
    """The installed package has no psycopg: 'audit --help' was an error."""
    missing = 'raise ImportError("No module named psycopg", name="psycopg")'
    (tmp_path / "psycopg.py").write_text(missing)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}

    def run(*words):
        line = [sys.executable, "-m", "broker.cli.app", "audit", *words]
        return subprocess.run(
            line, env=env, capture_output=True, text=True, check=False
        )

    shown = run("--help")
    assert (shown.returncode, "verify" in shown.stdout) == (0, True), shown.stderr
    assert "not available: the package psycopg" in " ".join(shown.stdout.split())
    used = run("fleet", "list")
    assert used.returncode == 1
    assert (
        "the package psycopg, which PostgreSQL requires, is not installed"
        in used.stderr
    )

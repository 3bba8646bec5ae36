"""Verbs of groups are loaded when they are used."""

from __future__ import annotations

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
        *("sandboxes.listing", "sandboxes.labels", "sandboxes.windows"),
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

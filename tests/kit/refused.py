"""A user whose rules refuse a copy of a file, and the log that tells so."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import trio
from click.testing import CliRunner

from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.store import open_store
from broker.authority.decisions.decision_events import decision
from broker.authority.permit import Request
from broker.cli.allow.allow_verb import command
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.paths import find_paths
from broker.ipc.audit import schema
from policy.records.loader import load_records
from policy.rules.engine import Engine, PolicyCall
from policy.rules.rulefiles import SHIPPED, load_rules, rule_path
from policy.rules.world import world_of

COPY = "vitrail.FileCopy"
RULES = f"{COPY} * vault @anyvm deny\n{COPY} * @anyvm @anyvm deny\n"
CALL = Request(lease=Lease("l1", "work", "work", 1), service=COPY, target="mail")


@contextmanager
def user_with_rules(tmp_path, monkeypatch):
    """A user whose rules refuse; yields a function that runs ``brokerctl allow``."""
    config = tmp_path / "c/vitrail"
    for folder in ("policy.d", "sandboxes.d"):
        (config / folder).mkdir(parents=True)
    (config / "policy.d/30-user.policy").write_text(RULES)
    for name in ("work", "vault", "mail"):
        (config / f"sandboxes.d/{name}.toml").write_text('class = "persistent"\n')
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # Short: a runtime directory must leave room for sockets' names.
    short = Path(tempfile.mkdtemp(prefix="v-", dir="/tmp"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    paths = find_paths()
    paths.runtime.mkdir(mode=0o700)

    def run(*words, answer=None):
        done = CliRunner().invoke(command, [*map(str, words)], input=answer)
        if isinstance(done.exception, RefusedError):
            return 1, str(done.exception)
        assert isinstance(done.exception, SystemExit | None), done.exception
        return done.exit_code, done.stdout + done.stderr

    run.folder = config / "policy.d"
    run.log = paths.audit
    yield run
    shutil.rmtree(short)


def decided(request=CALL):
    """What a broker decides about the call by the files as they are now."""
    paths = find_paths()
    rules = load_rules(rule_path(paths.runtime, paths.config), shipped=SHIPPED)
    assert not rules.problems
    world = world_of(load_records([paths.config[0] / "sandboxes.d"]))
    source = request.lease.sandbox
    call = PolicyCall(request.service, request.argument, source, request.target)
    return Engine(rules).answer(call, world)


def refused(run, request=CALL, reason=""):
    """A refusal, recorded as a broker does; returns its number.

    ``reason``: by a limit of the rule.
    """
    answer = decided(request)
    if reason:
        answer = answer._replace(reason=reason)

    async def write():
        async with open_store(run.log, settings=AuditSettings()) as store:
            lease = request.lease
            await store.record(
                schema.LeaseBegin(
                    sandbox=lease.sandbox, lease=lease.id, record=lease.record
                )
            )
            await store.record(
                decision(
                    request,
                    answer,
                    schema.EventVerdict("deny"),
                    {"rules": "r", "records": "c"},
                )
            )

    trio.run(write)
    return 2

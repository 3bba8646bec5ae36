"""``brokerctl allow``: the line is tried and shown; the user's choice writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import trio

from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.store import open_store
from broker.authority.permit import Request
from broker.cli.allow import watch
from broker.cli.allow.allow_verb import _only_recent
from broker.cli.allow.offer import offer_for
from broker.cli.allow.watch import OfferBudget
from broker.cli.allow.write import once
from broker.cli.verbs import report
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.paths import find_paths
from broker.ipc.audit import schema
from policy.rules.rule import ONCE_FILE
from tests.kit.brokerctl import OUR_PYTHON
from tests.kit.refused import CALL, COPY, decided, refused, user_with_rules


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    with user_with_rules(tmp_path, monkeypatch) as run:
        yield run


def test_the_line_its_file_and_what_else_it_allows_are_shown_first(run):
    refused(run)
    code, out = run()
    assert code == 1
    assert "event 2 was refused: vitrail.FileCopy: work → mail" in out
    assert f"{COPY} + work mail allow" in out
    assert str(run.folder / "10-allowed.policy") in out
    assert "the line does not change decisions about other sandboxes" in out
    assert not (run.folder / "10-allowed.policy").exists()


def test_always_writes_exactly_the_line_that_was_shown(run):
    refused(run)
    code, out = run("--json")
    line = json.loads(out.splitlines()[0])["line"]
    code, out = run("--always")
    assert code == 0, out
    text = (run.folder / "10-allowed.policy").read_text()
    assert text.splitlines()[-1] == line
    assert decided().verdict == "allow"
    # A second refusal, of the same call: the rules allow it by now.
    assert run("--always") == (1, run("--always")[1])
    assert text == (run.folder / "10-allowed.policy").read_text()


OTHER = Request(lease=Lease("l2", "vault", "vault", 1), service=COPY, target="mail")


@pytest.mark.parametrize("how", ["--once", "--always", "--ask"])
def test_allow_without_number_refused_among_several_calls(run, how):
    """A sandbox repeats a refused call: it is not the one that the user means."""
    refused(run)
    for _ in range(30):
        refused(run, OTHER)
    code, out = run(how)
    assert code == 1
    assert "several calls were refused in the last minute" in out
    assert f"\n    2  {COPY}: work → mail" in out
    assert f"  {COPY}: vault → mail" in out
    assert [p.name for p in run.folder.iterdir()] == ["30-user.policy"]
    code, out = run("2", "--always")
    assert code == 0, out
    assert decided().verdict == "allow"


def test_allow_means_refused_call_and_not_later_cut(run):
    """A lockdown cuts permits after the refusal that the user means."""
    refused(run)

    async def write():
        async with open_store(run.log, settings=AuditSettings()) as store:
            event = schema.Decision(
                sandbox="vault",
                lease="l2",
                service="vitrail.Network",
                verdict=schema.EventVerdict.DENY,
                outcome="cut",
            )
            await store.record(event)

    trio.run(write)
    code, out = run("--always")
    assert code == 0, out
    assert decided().verdict == "allow"
    assert "vault" not in run("--list")[1]


def test_list_has_argument_of_each_refused_call(run):
    """Four refused hosts of one sandbox were four equal lines."""
    for host in ("+a.example", "+b.example"):
        refused(run, replace(CALL, argument=host))
    code, out = run("--list")
    assert code == 0
    assert f"{COPY}: work → mail (+a.example)" in out
    assert f"{COPY}: work → mail (+b.example)" in out


def test_allow_without_number_refused_for_old_call(run, monkeypatch):
    refused(run)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 61 * 10**9)
    code, out = run("--always")
    assert code == 1
    assert "no call was refused in the last minute" in out
    with pytest.raises(RefusedError) as caught:
        _only_recent()
    assert "repeat the action that was refused" in caught.value.hint
    assert "its number" not in caught.value.hint
    assert run("2", "--always")[0] == 0


def test_each_time_may_be_asked_instead(run):
    refused(run)
    assert run("--ask")[0] == 0
    assert decided().verdict == "ask"


def test_once_is_of_one_call_and_outside_of_the_users_files(run):
    number = refused(run)

    async def allow():
        return once(offer_for(number))

    file = trio.run(allow)
    assert file == find_paths().runtime / "policy.d" / ONCE_FILE
    answer = decided()
    assert answer.verdict == "allow"
    assert answer.limits.rate.calls == 1
    assert [p.name for p in run.folder.iterdir()] == ["30-user.policy"]


@pytest.mark.parametrize("how", ["--once", "--always"])
def test_after_one_call_the_next_one_can_be_allowed(run, how):
    """Within the minute: the refusal is that of the line for one call."""
    number = refused(run)

    async def allow():
        return once(offer_for(number))

    file = trio.run(allow)
    first = decided().limits.rate
    refused(run, reason="the one call that was allowed has been made")
    code, out = run("4", how)
    assert code == 0, out
    assert f"{COPY} + work mail allow" in out
    answer = decided()
    assert answer.verdict == "allow"
    if how == "--once":
        assert answer.limits.rate not in {None, first}, "another counter"
    else:
        assert answer.limits.rate is None
        assert not file.exists()


def test_a_line_for_one_call_is_gone_after_a_crash(run, monkeypatch):
    """What kills the service kills what would have removed the line, too."""
    number = refused(run)

    async def allow():
        return once(offer_for(number))

    file = trio.run(allow)
    monkeypatch.setattr(watch, "open_log", lambda _: pytest.fail("too late"))
    monkeypatch.setattr(watch, "refusals_from_now", None)
    with pytest.raises(pytest.fail.Exception):
        trio.run(watch.watch_refusals, {})
    assert not file.exists()
    assert decided().verdict == "deny"


def test_another_limit_is_not_a_refusal_by_rules(run):
    (run.folder / "30-user.policy").write_text(f"{COPY} * work mail allow rate=1/min\n")
    refused(run, reason="more than 1 call in 60 s")
    code, out = run("--always")
    assert code == 1
    assert "event 2: denied by a limit of a rule (more than 1 call in 60 s, " in out
    with pytest.raises(RefusedError) as caught:
        offer_for(2)
    assert "brokerctl policy edit 30-user" in caught.value.hint


def test_a_limit_in_the_terminal_names_its_line_and_not_this_verb(capsys):
    """A rule that allows the call is there: another one is not the remedy."""
    error = RefusedError(
        "denied: more than 1 call in 60 s", where="/c/30-user.policy:4"
    )
    assert report(error) == 1
    err = capsys.readouterr().err
    assert "brokerctl policy edit 30-user'" in err
    assert "brokerctl allow" not in err


def test_a_line_without_effect_is_not_offered(run):
    """A file that comes earlier denies: the user's own line would be in vain."""
    (run.folder / "01-first.policy").write_text(f"{COPY} * @anyvm @anyvm deny\n")
    refused(run)
    code, out = run("--always")
    assert code == 1
    assert "would have no effect" in out
    assert not (run.folder / "10-allowed.policy").exists()


def test_a_no_of_the_record_offers_its_file(run):
    request = Request(
        lease=Lease("l1", "work", "work", 1),
        service="vitrail.AudioInput",
        target="@adminvm",
    )
    refused(run, request)
    code, out = run()
    assert code == 1
    assert "record" in out
    assert "sandboxes.d/work.toml" in out


def test_opening_without_rule_names_the_command_that_writes_rules(run):
    """No line is offered: only the user knows which sandbox opens an address."""
    request = Request(
        lease=Lease("l1", "work", "work", 1), service="vitrail.OpenURL", target=""
    )
    number = refused(run, request)
    with pytest.raises(RefusedError, match="no single rule") as refusal:
        offer_for(number)
    assert "'brokerctl policy starter'" in str(refusal.value.hint)


def test_an_unanswered_question_writes_nothing(run):
    refused(run)
    assert run(answer="")[0] == 1
    assert [p.name for p in run.folder.iterdir()] == ["30-user.policy"]


def test_a_sandbox_has_one_offer_at_a_time_and_few_a_minute():
    budget = OfferBudget()
    assert budget.take("web", 0.0)
    assert not budget.take("web", 1.0)
    budget.done("web")
    assert budget.take("web", 2.0)
    budget.done("web")
    assert budget.take("web", 3.0)
    budget.done("web")
    assert not budget.take("web", 4.0)
    assert budget.take("mail", 4.0)
    assert budget.take("web", 70.0)


def test_names_of_disposables_that_are_gone_are_forgotten():
    budget = OfferBudget()
    for number in range(1000):
        now = 70.0 * number
        assert budget.take(f"view-{number}", now)
        budget.done(f"view-{number}")
    assert budget.sandboxes == 1


def test_refused_offers_leave_no_name():
    """A flood of disposables is limited before it is remembered."""
    budget = OfferBudget()
    taken = [budget.take(f"view-{number}", 0.0) for number in range(1000)]
    assert sum(taken) == budget.sandboxes == 6


def test_a_refusal_in_the_terminal_names_the_verb(capsys):
    assert report(RefusedError("denied: by the rules", where="30-user.policy:1:1")) == 1
    assert "brokerctl allow" in capsys.readouterr().err
    assert report(RefusedError("denied: by the rules", hint="another")) == 1
    assert "brokerctl allow" not in capsys.readouterr().err


DISPOSABLE = Lease("l3", "view-1140", "view", 1)
FLOW = Request(
    lease=DISPOSABLE,
    service="vitrail.Network",
    target="@net",
    argument="+a.example",
    protocol="tcp",
    port=8443,
)


def disposable(run):
    text = 'class = "disposable"\n[launch]\nkind = "microvm"\nnetwork = "rules"\n'
    (run.folder.parent / "sandboxes.d/view.toml").write_text(text)


def test_always_names_the_record_of_a_disposable_and_the_flow(run):
    """Its own name never returns, and other ports were not refused."""
    disposable(run)
    number = refused(run, FLOW)
    assert run(number, "--always")[0] == 0
    text = (run.folder / "10-allowed.policy").read_text()
    line = "vitrail.Network +a.example view @net allow port=8443 protocol=tcp"
    assert text.splitlines()[-1] == line


def test_name_that_is_looked_up_is_allowed_at_each_port(run):
    """Its port is not known yet."""
    disposable(run)
    number = refused(run, replace(FLOW, protocol="dns", port=53))
    assert run(number, "--ask")[0] == 0
    text = (run.folder / "10-allowed.policy").read_text()
    assert text.splitlines()[-1] == "vitrail.Network +a.example view @net ask"


def test_the_line_of_a_disposable_changes_nothing_about_others(run):
    disposable(run)
    number = refused(run, replace(FLOW, protocol="dns", port=53))
    assert "does not change decisions about other sandboxes" in run(number)[1]


@pytest.mark.parametrize("ended", [True, False])
def test_once_is_of_the_disposable_that_runs(run, ended):
    """Another one of its record takes no call that the user has allowed."""
    disposable(run)
    number = refused(run, FLOW)
    if ended:

        async def end():
            async with open_store(run.log, settings=AuditSettings()) as store:
                await store.record(
                    schema.LeaseEnd(sandbox="view-1140", lease="l3", reason="")
                )

        trio.run(end)
    line = offer_for(number).once
    columns = "view" if ended else "view-1140"
    assert line.startswith(f"vitrail.Network +a.example {columns} @net allow port=8443")


FOLDER = Request(
    lease=Lease("l1", "work", "work", 1),
    service="vitrail.Folder",
    target="@adminvm",
    argument="+paper",
    write=True,
)


def test_a_writable_folder_is_allowed_to_be_written(run):
    number = refused(run, FOLDER)
    offer = offer_for(number)
    assert offer.line == "vitrail.Folder +paper work @adminvm allow write=yes"
    assert offer.once.startswith(f"{offer.line} rate=1/")
    assert offer.asking == "vitrail.Folder +paper work @adminvm ask write=yes"
    number = refused(run, replace(FOLDER, write=False))
    assert "write" not in offer_for(4).line


def test_call_refused_again_after_once_is_one_call(run):
    """The event of the limit has the target of the line, 'dom0' for '@adminvm'."""
    number = refused(run, FOLDER)

    async def allow():
        return once(offer_for(number))

    trio.run(allow)
    refused(run, FOLDER, reason="the one call that was allowed has been made")
    code, out = run("--always")
    assert code == 0, out


def test_the_users_own_call_changes_nothing_about_other_sandboxes(run):
    """The user has three names in rules."""
    request = Request(
        lease=Lease("l1", "work", "work", 1),
        service=COPY,
        source="@adminvm",
        target="work",
    )
    number = refused(run, request)
    _, out = run(number)
    assert "you → work" in out
    assert "the line does not change decisions about other sandboxes" in out


def test_refusal_of_an_answered_question_is_named(run):
    refused(run)
    (run.folder / "30-user.policy").write_text(f"{COPY} * work mail ask\n")
    code, out = run("--always")
    assert code == 1
    assert f"the rules already decide 'ask' for {COPY}: work → mail" in out


def test_once_in_a_pipe_ends_before_the_minute(run):
    """The process that removes the line kept the pipe open: 'allow --once | tail'."""
    refused(run)
    argv = [sys.executable, "-m", "broker.cli.app", "allow", "--once"]
    answer = subprocess.run(
        argv, env=os.environ | OUR_PYTHON, capture_output=True, timeout=40, check=False
    )
    assert answer.returncode == 0, answer
    assert b"one call is allowed" in answer.stderr

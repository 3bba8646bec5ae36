"""A record's name means its sandboxes, in every verb that takes SANDBOX."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from broker.authority.audit.store import open_store
from broker.ipc.audit.schema import LeaseBegin, StreamOpened
from broker.ipc.control import methods
from broker.ipc.control.api import Exited, OpenItem, RunItem, SandboxStatus, Started
from broker.ipc.control.method import serves
from tests.kit.brokerctl import brokerctl, paths_of
from tests.kit.control import ScriptedBroker, serving


def sandbox(name, record):
    return SandboxStatus(
        name=name,
        record=record,
        sandbox_class="disposable",
        label=record,
        state="running",
        since=1_790_000_000.0,
    )


def broker(*pairs) -> ScriptedBroker:
    api = ScriptedBroker()
    sandboxes = [sandbox(*pair) for pair in pairs]
    api.state = msgspec.structs.replace(api.state, sandboxes=sandboxes)
    return api


DEMOS = [("demo-1001", "demo"), ("demo-1002", "demo"), ("demos", "demos")]


async def test_status_of_a_record_shows_its_sandboxes(env):
    async with serving(paths_of(env).control, broker(*DEMOS)):
        answer = await brokerctl("status", "demo", "--json", env=env)
    (status,) = answer.objects
    assert [s["name"] for s in status["sandboxes"]] == ["demo-1001", "demo-1002"]


async def test_stop_of_a_record_says_first_what_ends(env):
    api = broker(*DEMOS)
    told = []

    async def on_stop(request):
        told.append(request.sandbox)

    api.on_stop = on_stop
    async with serving(paths_of(env).control, api):
        both = await brokerctl("stop", "demo", env=env)
        one = await brokerctl("stop", "demo-1001", env=env)
    assert told == ["demo", "demo-1001"]
    first = both.err.splitlines()[0]
    assert first == "stopping 2 sandboxes of demo: demo-1001, demo-1002"
    assert "ending" not in one.err


async def test_logs_of_a_record_are_those_of_its_newest_sandbox(env):
    paths = paths_of(env)
    for age, name in enumerate(["demo-1002", "demo-1001", "demos-1003", "demo-x"]):
        folder = paths.logs(name)
        folder.mkdir(parents=True)
        (folder / "console.log").write_text(f"this is {name}\n")
        os.utime(folder, (1_790_000_000 - age, 1_790_000_000 - age))
    answer = await brokerctl("logs", "demo", env=env)
    assert answer.out == "this is demo-1002\n"
    assert "logs of 2 sandboxes" in answer.err
    assert "console.log of demo-1002" in answer.err
    assert (await brokerctl("logs", "dem", env=env)).code == 1


async def test_audit_of_a_record_has_its_sandboxes_and_capitals_do_not_matter(env):
    async with open_store(paths_of(env).audit) as store:
        for name, record in DEMOS:
            await store.record(LeaseBegin(sandbox=name, lease=name, record=record))
            await store.record(
                StreamOpened(sandbox=name, lease=name, service="vitrail.Display")
            )

    async def found(*words):
        answer = await brokerctl("audit", "--kind", "stream", *words, "--json", env=env)
        return [event["sandbox"] for event in answer.objects]

    assert await found("--sandbox", "demo") == ["demo-1001", "demo-1002"]
    assert await found("--sandbox", "Demo-1002") == ["demo-1002"]
    assert await found("--service", "display") == [name for name, _ in DEMOS]
    assert await found("--sandbox", "nothing") == []


async def test_cp_to_a_record_goes_to_its_sandbox_that_runs(env, tmp_path):
    """Not into a new disposable, which would end with the file in it."""
    (tmp_path / "notes.txt").write_text("milk")
    words = ("cp", str(tmp_path / "notes.txt"), "demo:")
    api = OpeningBroker()
    api.state = broker(("demo-1001", "demo")).state
    async with serving(paths_of(env).control, api):
        answer = await brokerctl(*words, env=env)
    assert answer.code == 0, answer.err
    assert [request.sandbox for request in api.opened] == ["demo-1001"]
    api = OpeningBroker()
    api.state = broker(*DEMOS).state
    async with serving(paths_of(env).control, api):
        answer = await brokerctl(*words, env=env)
    assert answer.code == 1
    assert "demo-1001, demo-1002" in answer.err
    assert not api.opened


async def test_cp_to_a_disposable_that_has_ended_is_refused_with_the_reason(
    env, tmp_path
):
    (tmp_path / "notes.txt").write_text("milk")
    records = paths_of(env).config[0] / "sandboxes.d"
    records.mkdir(parents=True)
    (records / "demo.toml").write_text('class = "disposable"\n')
    (records / "work.toml").write_text('class = "persistent"\n')
    words = ("cp", str(tmp_path / "notes.txt"))
    api = OpeningBroker()
    api.state = broker(("web-1", "web")).state
    async with serving(paths_of(env).control, api):
        answer = await brokerctl(*words, "demo:", env=env)
        assert (answer.code, api.opened) == (1, [])
        assert (
            "'demo' is not running, and a new one would end with the copy" in answer.err
        )
        assert "'brokerctl run demo'" in answer.err
        answer = await brokerctl(*words, "demo-1001:", env=env)
        assert (answer.code, api.opened) == (1, [])
        assert "'demo-1001' has ended, and all that was in it is gone" in answer.err
        for name in ("work", "web-1", "elsewhere"):
            assert (await brokerctl(*words, f"{name}:", env=env)).code == 0
    assert [one.sandbox for one in api.opened] == ["work", "web-1", "elsewhere"]
    api = OpeningBroker()
    api.state = broker(("demo-1001", "demo")).state
    async with serving(paths_of(env).control, api):
        for name in ("demo", "demo-1001"):
            assert (await brokerctl(*words, f"{name}:", env=env)).code == 0
    assert [one.sandbox for one in api.opened] == ["demo-1001"] * 2


async def test_cp_from_a_record_is_asked_of_its_sandbox_that_runs(env, tmp_path):
    api = broker(("demo-1001", "demo"))
    target = tmp_path / "target"
    target.mkdir()

    async def done(caller, request, emit):
        assert request.argv == ["vitrail-copy", "--to", "@adminvm", "--", "/x"]
        await emit(RunItem(started=Started(sandbox=request.record, program=1)))
        arrived = Path(env["HOME"]) / "Incoming" / request.record / "x"
        arrived.parent.mkdir(parents=True)
        arrived.write_text("from demo")
        return RunItem(exited=Exited(sandbox=request.record, program=1, code=0))

    api.on_run = done
    async with serving(paths_of(env).control, api):
        answer = await brokerctl("cp", "demo:/x", str(target), env=env)
    assert answer.code == 0, answer.err
    assert (target / "x").read_text() == "from demo"
    (request,) = [request for verb, request in api.asked if verb == "run"]
    assert request.record == "demo-1001"


class OpeningBroker(ScriptedBroker):
    """Accepts every copy."""

    def __init__(self):
        super().__init__()
        self.opened = []

    @serves(methods.OPEN)
    async def open_objects(self, exchange, request):
        self.opened.append(request)
        return OpenItem(sandbox=request.sandbox)


async def test_cp_of_a_missing_file_asks_no_broker(env, tmp_path):
    api = broker()
    async with serving(paths_of(env).control, api):
        answer = await brokerctl("cp", str(tmp_path / "nothing"), "demo:", env=env)
    assert (answer.code, "does not exist" in answer.err) == (1, True), answer.err
    assert not [verb for verb, _ in api.asked if verb != "status"]

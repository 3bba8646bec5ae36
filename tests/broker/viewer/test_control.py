"""Requests of brokerctl that each role answers, and those that it sends elsewhere."""

from __future__ import annotations

import msgspec
import pytest
import trio

from broker.control import api, methods
from broker.control.server import serve
from broker.core.errors import InternalError, RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.host.control import ELSEWHERE as HOST_ELSEWHERE
from broker.host.control import HostControl
from broker.programs.local_role import LocalControl
from broker.services.control import Shared, SharedControl
from broker.viewer.control import ViewerControl

CALLER = api.Caller(pid=7, uid=1000)
LEASES = [
    Lease(LeaseId(f"{number:016x}"), SandboxName(name), SandboxName(record), 1)
    for number, (name, record) in enumerate(
        [("web-1000", "web"), ("web-1001", "web"), ("work", "work")]
    )
]


class Stage:
    """A role without machines; keeps the requests to end them."""

    def __init__(self, role="local"):
        self.ended = []
        self.live = list(LEASES)
        self.shutdown = trio.Event()
        shared = Shared(
            role=role,
            live=lambda: self.live,
            power_off=self.power_off,
            status=None,
            leases=list,
            shutdown=self.shutdown,
            prune=self.prune,
        )
        self.api = {
            "local": lambda: SharedControl(shared),
            "host": lambda: HostControl(shared, leasing=None),
            "viewer": lambda: ViewerControl(shared, person=None, desk=None),
        }[role]()

    async def prune(self, seconds, megabytes):
        self.pruned = seconds, megabytes
        return 3

    async def power_off(self, lease, *, reason, grace):
        await trio.lowlevel.checkpoint()
        (name,) = [x.sandbox for x in self.live if x.id == lease]
        self.ended.append((name, grace, reason))


async def emit(item):
    raise AssertionError


@pytest.mark.parametrize(
    ("sandbox", "ended"),
    [
        ("work", {"work"}),
        ("web-1001", {"web-1001"}),
        ("web", {"web-1000", "web-1001"}),
        (None, {"web-1000", "web-1001", "work"}),
    ],
)
async def test_a_stop_is_of_a_sandbox_or_of_all_of_a_record(sandbox, ended):
    stage = Stage()
    answer = await stage.api.stop(CALLER, api.StopRequest(sandbox=sandbox))
    assert set(answer.stopped) == ended
    reason = "stopped on request by process 7"
    assert {(n, 5.0, reason) for n in ended} == set(stage.ended)


@pytest.mark.parametrize(("asked", "given"), [(None, 5.0), (0, 0), (-3, 0), (60, 60)])
async def test_the_grace_of_a_stop(asked, given):
    stage = Stage()
    await stage.api.stop(CALLER, api.StopRequest(sandbox="work", grace=asked))
    assert [grace for _, grace, _ in stage.ended] == [given]


@pytest.mark.parametrize("name", ["web-100", "web-", "wor"])
async def test_a_stop_of_what_does_not_run(name):
    stage = Stage()
    with pytest.raises(api.NotFoundError, match=f"no sandbox '{name}' runs"):
        await stage.api.stop(CALLER, api.StopRequest(sandbox=name))
    assert stage.ended == []


async def test_a_stop_of_a_malformed_name():
    with pytest.raises(RefusedError, match="is not a sandbox name"):
        await Stage().api.stop(CALLER, api.StopRequest(sandbox="../x"))


async def test_the_end_of_the_broker_ends_all():
    stage = Stage()
    await stage.api.shutdown(CALLER)
    assert stage.shutdown.is_set()
    await stage.api.stop_all()
    assert len(stage.ended) == len(LEASES)


async def call(stage, name, *, more=False, **parameters):
    """Answer a call as the control socket does."""
    exchange = methods.Exchange(stage.api, CALLER, more, emit)
    method = methods.find_method(f"{api.INTERFACE}.{name}")
    return await method(exchange, msgspec.Raw(msgspec.json.encode(parameters)))


async def test_a_host_runs_no_programs_and_says_who_does():
    with pytest.raises(RefusedError, match="this broker is a host") as caught:
        await call(Stage("host"), "Run", record="web")
    assert "brokerctl run web" in caught.value.hint


@pytest.mark.parametrize("more", [False, True])
async def test_a_viewer_gives_no_leases_and_says_who_does(more):
    viewer = Stage("viewer")
    for name, parameters in (
        ("LeaseAcquire", {"record": "box", "cid": 42, "leader": 7}),
        ("LeaseRelease", {"id": "0" * 16}),
    ):
        with pytest.raises(RefusedError, match="this broker is a viewer") as caught:
            await call(viewer, name, more=more, **parameters)
        assert "on the host" in caught.value.hint


@pytest.mark.parametrize("role", ["host", "viewer"])
async def test_a_role_answers_or_refuses_each_method(role):
    control = Stage(role).api
    methods.check_complete(control)
    for name, reason in control.elsewhere.items():
        row = methods.TABLE[name]
        assert not hasattr(control, row.handler)
        with pytest.raises(RefusedError) as caught:
            await methods.perform(
                row,
                methods.Exchange(control, CALLER, more=False, emit=emit),
                api.RunRequest(record="web"),
            )
        assert caught.value.message == reason.message
        assert "{" not in caught.value.hint


def test_a_role_with_everything_refuses_nothing():
    assert LocalControl.elsewhere == {}
    for row in methods.TABLE.values():
        handler = getattr(LocalControl, row.handler)
        assert handler is not getattr(api.BrokerApi, row.handler)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {**HOST_ELSEWHERE, "Stop": HOST_ELSEWHERE["Run"]},
        {**HOST_ELSEWHERE, "Stopp": HOST_ELSEWHERE["Run"]},
        {name: row for name, row in HOST_ELSEWHERE.items() if name != "Run"},
    ],
    ids=["twice", "unknown", "missing"],
)
async def test_a_role_with_another_table_serves_nothing(tmp_path, elsewhere):
    control = Stage("host").api
    control.elsewhere = elsewhere
    with pytest.raises(InternalError):
        await serve(tmp_path / "control", control)
    assert not (tmp_path / "control").exists()


async def test_pruning_is_passed_on_and_nothing_is_kept_for_no_time():
    stage = Stage()
    request = api.AuditPruneRequest(keep_seconds=5, max_megabytes=None)
    assert (await stage.api.prune(CALLER, request)).removed == 3
    assert stage.pruned == (5, None)
    for wrong in ({"keep_seconds": 0}, {"max_megabytes": -1}):
        with pytest.raises(RefusedError):
            await stage.api.prune(CALLER, api.AuditPruneRequest(**wrong))

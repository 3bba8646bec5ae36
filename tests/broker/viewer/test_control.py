"""What each role does for brokerctl, and what it sends elsewhere."""

from __future__ import annotations

import pytest
import trio

from broker.control import api
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.host.control import HostControl
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
    """A role without machines; keeps what it was asked to end."""

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


async def test_a_stop_of_what_is_no_name():
    with pytest.raises(RefusedError, match="is not a sandbox name"):
        await Stage().api.stop(CALLER, api.StopRequest(sandbox="../x"))


async def test_the_end_of_the_broker_ends_all():
    stage = Stage()
    await stage.api.shutdown(CALLER)
    assert stage.shutdown.is_set()
    await stage.api.stop_all()
    assert len(stage.ended) == len(LEASES)


async def test_a_host_runs_no_programs_and_says_who_does():
    with pytest.raises(RefusedError, match="this broker is a host") as caught:
        await Stage("host").api.run(CALLER, api.RunRequest(record="web"), emit)
    assert "brokerctl run web" in caught.value.hint


async def test_a_viewer_gives_no_leases_and_says_who_does():
    viewer = Stage("viewer").api
    request = api.LeaseRequest(record="box", cid=42)
    for call in (
        viewer.lease(CALLER, request),
        viewer.hold_lease(CALLER, request, emit),
        viewer.release(CALLER, api.LeaseReleaseRequest(id="0" * 16)),
    ):
        with pytest.raises(RefusedError, match="this broker is a viewer") as caught:
            await call
        assert "on the host" in caught.value.hint


async def test_pruning_is_passed_on_and_nothing_is_kept_for_no_time():
    stage = Stage()
    request = api.AuditPruneRequest(keep_seconds=5, max_megabytes=None)
    assert (await stage.api.prune(CALLER, request)).removed == 3
    assert stage.pruned == (5, None)
    for wrong in ({"keep_seconds": 0}, {"max_megabytes": -1}):
        with pytest.raises(RefusedError):
            await stage.api.prune(CALLER, api.AuditPruneRequest(**wrong))

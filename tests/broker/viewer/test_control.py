"""Requests of brokerctl that each role answers, and those that it sends elsewhere."""

from __future__ import annotations

import msgspec
import pytest
import trio

from broker.authority.control.log_control import EventsPart, LogControl
from broker.authority.decisions.question_control import QuestionControl
from broker.authority.lockdown import Lockdown
from broker.core.errors import InternalError, RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.host.lease_requests import Leasing
from broker.host_and_viewer.control_handlers import Shared, SharedControl
from broker.host_and_viewer.lease_listing import LeaseListing
from broker.ipc.control import api, method, methods
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.varlink import Call
from broker.viewer.clipboard.control import ClipboardControl
from broker.viewer.devices.control import DeviceControl
from broker.viewer.dialogs import PortalControl
from broker.viewer.folders.control import FolderControl
from broker.viewer.network.forwards import PortForwards
from broker.viewer.network.network_control import NetworkControl
from broker.viewer.notifications.notification_service import NotificationControl
from broker.viewer.runner import Runner
from broker.viewer.sandboxes.suspending import SuspendControl
from broker.viewer.sound.sound_control import SoundControl
from broker.viewer.transfer.person import PersonOpens
from broker.viewer.wayland.window_requests import WindowsPart
from broker.wire.faults import NotFoundError


def _bare(*classes):
    """Parts that have their methods and nothing else."""
    return [cls.__new__(cls) for cls in classes]


SCREEN = (
    Runner,
    SuspendControl,
    PersonOpens,
    EventsPart,
    WindowsPart,
    NetworkControl,
    PortForwards,
    QuestionControl,
    Lockdown,
    ClipboardControl,
    DeviceControl,
    FolderControl,
    NotificationControl,
    PortalControl,
    SoundControl,
)
LEASES = [
    Lease(LeaseId(f"{number:016x}"), SandboxName(name), SandboxName(record), 1)
    for number, (name, record) in enumerate(
        [("web-1000", "web"), ("web-1001", "web"), ("work", "work")]
    )
]


class Stage:
    """A role without machines; keeps the requests to end them."""

    def __init__(self, role="local"):
        self.role = role
        self.ended = []
        self.live = list(LEASES)
        self.shutdown = trio.Event()
        shared = Shared(
            role=role,
            live=lambda: self.live,
            power_off=self.power_off,
            status=None,
            shutdown=self.shutdown,
        )
        self.api = SharedControl(shared)
        self.log = LogControl(self.prune)
        others = {"host": (Leasing, Lockdown), "viewer": SCREEN}
        self.parts = [
            self.api,
            LeaseListing(list),
            self.log,
            *_bare(*others.get(role, ())),
        ]

    async def prune(self, seconds, megabytes):
        self.pruned = seconds, megabytes
        return 3

    async def power_off(self, lease, *, reason, grace):
        await trio.lowlevel.checkpoint()
        (name,) = [x.sandbox for x in self.live if x.id == lease]
        self.ended.append((name, grace, reason))


async def emit(item):
    raise AssertionError


EXCHANGE = method.Exchange(api.Caller(pid=7, uid=1000), more=False, emit=emit)


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
    answer = await stage.api.stop(EXCHANGE, api.StopRequest(sandbox=sandbox))
    assert set(answer.stopped) == ended
    reason = "stopped on request by process 7"
    assert {(n, 5.0, reason) for n in ended} == set(stage.ended)


@pytest.mark.parametrize(("asked", "given"), [(None, 5.0), (0, 0), (-3, 0), (60, 60)])
async def test_the_grace_of_a_stop(asked, given):
    stage = Stage()
    await stage.api.stop(EXCHANGE, api.StopRequest(sandbox="work", grace=asked))
    assert [grace for _, grace, _ in stage.ended] == [given]


@pytest.mark.parametrize("name", ["web-100", "web-", "wor"])
async def test_a_stop_of_what_does_not_run(name):
    stage = Stage()
    with pytest.raises(NotFoundError, match=f"no sandbox '{name}' is running"):
        await stage.api.stop(EXCHANGE, api.StopRequest(sandbox=name))
    assert stage.ended == []


async def test_a_stop_of_a_malformed_name():
    with pytest.raises(RefusedError, match="is not a sandbox name"):
        await Stage().api.stop(EXCHANGE, api.StopRequest(sandbox="../x"))


async def test_the_end_of_the_broker_ends_all():
    stage = Stage()
    await stage.api.shutdown(EXCHANGE, api.Nothing())
    assert stage.shutdown.is_set()
    await stage.api.stop_all()
    assert len(stage.ended) == len(LEASES)


async def call(stage, name, /, *, more=False, **parameters):
    """Answer a call as the control socket does."""
    exchange = method.Exchange(EXCHANGE.caller, more, emit)
    raw = msgspec.Raw(msgspec.json.encode(parameters))
    dispatcher = Dispatcher(stage.role, stage.parts, methods.TABLE)
    return await dispatcher.answer(Call(f"{api.INTERFACE}.{name}", raw), exchange)


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


def least(request):
    """Return the fields that a request must have."""
    values = {str: "web", int: 1, bool: True}
    return {
        field.name: values[field.type]
        for field in msgspec.structs.fields(request)
        if field.required
    }


@pytest.mark.parametrize("role", ["host", "viewer"])
async def test_a_role_refuses_each_method_that_its_row_denies(role):
    stage = Stage(role)
    absent = [row for row in methods.TABLE.values() if row.absence(role)]
    assert absent
    for row in absent:
        with pytest.raises(RefusedError) as caught:
            await call(stage, row.name, **least(row.request))
        assert caught.value.message == row.absence(role).message
        assert "{" not in caught.value.hint


def test_a_broker_for_one_machine_lacks_no_method():
    assert not [row for row in methods.TABLE.values() if row.absence("local")]


class Twice(SharedControl):
    """A second part with the same methods."""


class Answers:
    @method.serves(methods.RUN)
    async def run(self, exchange, request):
        raise AssertionError


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (
            (SharedControl, LeaseListing, LogControl, Leasing, Lockdown, Twice),
            "has two handlers",
        ),
        (
            (SharedControl, LeaseListing, LogControl, Leasing, Lockdown, Answers),
            "a host does not answer Run",
        ),
        (
            (
                SharedControl,
                LeaseListing,
                LogControl,
                Lockdown,
            ),
            "no part of this host answers LeaseAcquire",
        ),
    ],
    ids=["twice", "absent", "missing"],
)
def test_a_role_with_other_parts_serves_nothing(parts, complaint):
    Dispatcher(
        "host",
        _bare(SharedControl, LeaseListing, LogControl, Leasing, Lockdown),
        methods.TABLE,
    )
    with pytest.raises(InternalError, match=complaint):
        Dispatcher("host", _bare(*parts), methods.TABLE)


async def test_pruning_is_passed_on_and_nothing_is_kept_for_no_time():
    stage = Stage()
    request = api.AuditPruneRequest(keep_seconds=5, max_megabytes=None)
    assert (await stage.log.prune(EXCHANGE, request)).removed == 3
    assert stage.pruned == (5, None)
    for wrong in ({"keep_seconds": 0}, {"max_megabytes": -1}):
        with pytest.raises(RefusedError):
            await stage.log.prune(EXCHANGE, api.AuditPruneRequest(**wrong))

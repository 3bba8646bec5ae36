"""Names of disposables, and whose peer a launcher may lease."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.core.errors import RefusedError
from broker.core.names import SandboxName, take_sandbox_name
from broker.core.parts.absent import AbsentPartError
from broker.core.paths import find_paths
from broker.host import lease_requests
from broker.host.lease_requests import asked_name, check_peer, sandbox_name
from broker.ipc.control.api import LeaseRequest, MachineEventRequest
from policy.records.loader import load_records
from policy.records.model import RecordSet
from policy.tools.record_files import parse_record
from tests.kit.control import EXCHANGE
from tests.kit.world import record

DOMAIN = 'class = "persistent"\n[launch]\nkind = "external"\n[peer]\nlibvirt = "pc"\n'
EXTERNAL = 'class = "persistent"\n[launch]\nkind = "external"\n[peer]\n'
NONE = RecordSet({}, {}, (), "")


def made_leasing(log, records, reload):
    return lease_requests.Leasing(
        host=SimpleNamespace(active_leases=list),
        log=log,
        records=lambda: records,
        reload=reload,
        listen_vsock=reload,
        paths=find_paths({"HOME": "/nowhere", "XDG_RUNTIME_DIR": "/nowhere"}),
    )


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ({"cid": 42}, "does not say when the lease ends"),
        ({"leader": 1}, "exactly one of"),
        ({"leader": 1, "cid": 4, "unix": "/x"}, "exactly one of"),
    ],
)
async def test_a_lease_needs_one_claim_and_something_to_live_as_long_as(way, why):
    async def never():
        raise AssertionError

    leasing = made_leasing(None, NONE, never)
    with pytest.raises(RefusedError, match=why):
        await leasing.lease(EXCHANGE, LeaseRequest(record="work", **way))


def parsed(name, text):
    made, problems = parse_record(name, Path(f"{name}.toml"), text.encode())
    assert made is not None, problems
    return made


def names(stem, numbers):
    return frozenset(SandboxName(f"{stem}-{number}") for number in numbers)


# -- names -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "x" * 31])
def test_a_persistent_one_has_its_record_s_name(name):
    mine = parsed(name, record("persistent"))
    assert sandbox_name(mine, frozenset(), NONE) == name


@pytest.mark.parametrize("length", [1, 25, 26, 27, 31])
def test_a_disposable_s_name_is_a_name_of_at_most_31_characters(length):
    name = "x" * length
    made = sandbox_name(parsed(name, record()), frozenset(), NONE)
    assert take_sandbox_name(made) == made
    stem, _, number = made.rpartition("-")
    assert stem == name[:26]
    assert len(made) == min(length, 26) + 5
    assert 1000 <= int(number) <= 9999


def test_a_stem_may_end_in_a_dash():
    name = "a" * 25 + "-bcdef"
    assert take_sandbox_name(sandbox_name(parsed(name, record()), frozenset(), NONE))


@pytest.mark.parametrize("moment", [0, 8999, 9000, 123_456_789])
def test_a_disposable_s_name_is_fresh(monkeypatch, moment):
    """Many in one millisecond have as many names; all 9000 are used."""
    monkeypatch.setattr(lease_requests.time, "time_ns", lambda: moment * 1_000_000)
    mine = parsed("web", record())
    taken = set()
    for _ in range(20):
        name = sandbox_name(mine, frozenset(taken), NONE)
        assert name not in taken
        taken.add(name)
    all_but_one = names("web", range(1000, 10_000)) - {SandboxName("web-4711")}
    assert sandbox_name(mine, all_but_one, NONE) == "web-4711"


def test_nine_thousand_are_in_use():
    mine = parsed("web", record())
    with pytest.raises(
        RefusedError, match="all 9000 names of sandboxes of 'web' are in use"
    ):
        sandbox_name(mine, names("web", range(1000, 10_000)), NONE)
    full = names("web", range(1000, 10_000))
    assert sandbox_name(parsed("work", record()), full, NONE)


# -- peers ---------------------------------------------------------------------------

PEERS = {
    "hybrid": ('hybrid = "/run/vm/vm.vsock"', {"hybrid": "/run/vm/vm.vsock"}),
    "cid": ("cid = 42", {"cid": 42}),
    "unix": ('unix = "/run/box"', {"unix": "/run/box"}),
}
ASKED = [
    *(words for _, words in PEERS.values()),
    {},
    {"cid": 43},
    {"cid": 0},
    {"hybrid": "/run/vm/vm.vsock/"},
    {"hybrid": "/run/vm/../vm/vm.vsock"},
    {"hybrid": ""},
    {"unix": "/run/bo"},
    {"unix": "/run/box\0"},
    {"cid": 42, "unix": "/run/box"},
    {"cid": 42, "hybrid": "/run/vm/vm.vsock"},
    {"hybrid": "/run/box"},
    {"unix": "/run/vm/vm.vsock"},
]


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_lease_is_for_the_peer_of_the_record_and_no_other(kind, asked):
    text, own = PEERS[kind]
    mine = parsed("box", EXTERNAL + text + "\n")
    request = LeaseRequest(record="box", **asked)
    if asked == own:
        check_peer(mine, mine.host.launch.peer, request, NONE)
        return
    with pytest.raises(RefusedError, match="the request names another peer") as caught:
        check_peer(mine, mine.host.launch.peer, request, NONE)
    assert caught.value.where == "box.toml:5:1"


def test_a_launcher_may_not_take_another_record_s_name(tmp_path):
    """Its windows would be shown as that one's."""
    for name in ("box", "work"):
        (tmp_path / f"{name}.toml").write_text(record())
    (tmp_path / "half.toml").write_text("class = 1")
    records = load_records([tmp_path])
    box = records.records["box"]
    assert asked_name(box, "box", records) == "box"
    assert asked_name(box, "box-two", records) == "box-two"
    for other in ("work", "half"):
        with pytest.raises(RefusedError, match="another record"):
            asked_name(box, other, records)


# -- hooks ---------------------------------------------------------------------------


class Journal:
    """Keeps refusals."""

    def __init__(self):
        self.refusals = []

    async def refused(self, event):
        self.refusals.append(event)


async def test_a_domain_that_is_refused_is_recorded(tmp_path):
    folder = tmp_path / "sandboxes.d"
    folder.mkdir(mode=0o755)
    (folder / "work.toml").write_text(DOMAIN)
    records, log = load_records([folder]), Journal()

    async def nothing():
        return False

    leasing = made_leasing(log, records, nothing)
    step = {"launcher": "libvirt", "event": "prepare", "uuid": "-", "record": "other"}
    for name in ("pc", "pc\x1b[2J"):
        request = MachineEventRequest(name=name, **step)
        with pytest.raises(
            RefusedError, match="has no record 'other' that names the domain"
        ):
            await leasing.machine_event(EXCHANGE, request)
    first, second = log.refusals
    assert (first.sandbox, first.peer) == ("work", "domain pc")
    assert "names the sandbox 'other'" in first.reason
    assert second.sandbox == ""
    assert "\x1b" not in second.peer + second.reason


SEVERAL = {
    "hybrid_directory": (
        'hybrid_directory = "/run/vms"',
        [
            {"hybrid": "/run/vms/a"},
            {"hybrid": "/run/vms/b.vsock"},
            {"hybrid": "/run/vms/deep/a"},
        ],
        [
            {"hybrid": "/run/vms"},
            {"hybrid": "/run/vms/"},
            {"hybrid": "/run/vms/."},
            {"hybrid": "/run/vms/x/../a"},
            {"hybrid": "/run/vms/../vms/a"},
            {"hybrid": "/run/vms//a"},
            {"hybrid": "/run/vms/deep/er/a"},
            {"hybrid": "/run/vms/../run/vms/a"},
            {"hybrid": "/run/vmsa"},
            {"hybrid": ""},
            {"unix": "/run/vms/a"},
            {"cid": 3},
        ],
    ),
    "cids": (
        'cids = "100-102"',
        [{"cid": 100}, {"cid": 102}],
        [{"cid": 99}, {"cid": 103}, {"hybrid": "/100"}, {"cid": 100, "hybrid": "/a"}],
    ),
}
DISPOSABLE = EXTERNAL.replace("persistent", "disposable")


@pytest.mark.parametrize("key", SEVERAL)
def test_a_record_of_several_machines_takes_those_and_no_other(key):
    text, right, wrong = SEVERAL[key]
    mine = parsed("box", DISPOSABLE + text + "\n")
    for asked in right:
        request = LeaseRequest(record="box", **asked)
        check_peer(mine, mine.host.launch.peer, request, NONE)
    for asked in wrong:
        request = LeaseRequest(record="box", **asked)
        with pytest.raises(RefusedError, match="names another peer"):
            check_peer(mine, mine.host.launch.peer, request, NONE)


MACHINED = 'machine = "bank"\nhybrid = "/run/vms/bank"\n'


def test_a_socket_of_a_machine_of_machined_is_not_one_of_several():
    mine = parsed("box", DISPOSABLE + 'hybrid_directory = "/run/vms"\n')
    records = RecordSet(
        {"box": mine, "bank": parsed("bank", EXTERNAL + MACHINED)}, {}, (), ""
    )
    request = LeaseRequest(record="box", hybrid="/run/vms/bank")
    with pytest.raises(RefusedError, match="'bank' names this machine"):
        check_peer(mine, mine.host.launch.peer, request, records)


def test_a_machine_that_a_record_names_is_not_one_of_several():
    mine = parsed("box", DISPOSABLE + 'hybrid_directory = "/run/vms"\n')
    bank = parsed("bank", EXTERNAL + 'hybrid = "/run/vms/bank"\n')
    records = RecordSet({"box": mine, "bank": bank}, {}, (), "")
    peer = mine.host.launch.peer
    check_peer(mine, peer, LeaseRequest(record="box", hybrid="/run/vms/a"), records)
    request = LeaseRequest(record="box", hybrid="/run/vms/bank")
    with pytest.raises(RefusedError, match="'bank' names this machine") as caught:
        check_peer(mine, peer, request, records)
    assert caught.value.where == "bank.toml:5:1"
    own = LeaseRequest(record="bank", hybrid="/run/vms/bank")
    check_peer(bank, bank.host.launch.peer, own, records)


async def test_a_hooks_event_names_the_package_that_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "broker.host.launchers.libvirt.guests", None)
    log = Journal()

    async def nothing():
        return False

    leasing = made_leasing(log, NONE, nothing)
    request = MachineEventRequest(
        launcher="libvirt", event="prepare", name="pc", uuid="-"
    )
    with pytest.raises(AbsentPartError, match="is in the package vitrail-launchers"):
        await leasing.machine_event(EXCHANGE, request)
    (refused,) = log.refusals
    assert "vitrail-launchers" in refused.reason

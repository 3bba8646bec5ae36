"""Comparing claims with kernel facts: who is admitted, who is refused, why."""

from __future__ import annotations

import pytest

from broker.core.errors import RefusedError
from broker.net.peers.identity import (
    Connector,
    ContainerClaim,
    FlatpakClaim,
    GroupClaim,
    HybridClaim,
    ProcessFacts,
    SharedClaim,
    VsockClaim,
    VsockFacts,
    check,
    take_cid,
)

VMM = Connector(pid=10, inode=777)
HYBRID = HybridClaim("/run/a/vm.vsock", frozenset({VMM}))
CONTAINER = ContainerClaim("/run/a", pid_namespace=50)

FLATPAK = FlatpakClaim("/run/a", "org.example.Foot", {(50, 4): "org.example.Foot"}.get)


def process(pid=10, inode=777, namespaces=(4,)):
    return ProcessFacts(pid, 1000, 1000, inode, namespaces)


@pytest.mark.parametrize(
    ("claim", "facts", "alive"),
    [
        pytest.param(HYBRID, process(), set(), id="the VMM itself"),
        pytest.param(HYBRID, process(inode=0), {10}, id="old kernel, VMM alive"),
        pytest.param(VsockClaim(1, 42), VsockFacts(1, 42), set(), id="its CID"),
        pytest.param(VsockClaim(1, 42, 10), VsockFacts(1, 42), {10}, id="its holder"),
        pytest.param(CONTAINER, process(namespaces=(50, 4)), set(), id="in container"),
        pytest.param(CONTAINER, process(namespaces=(9, 50, 4)), set(), id="nested"),
        pytest.param(FLATPAK, process(namespaces=(50, 4)), set(), id="flatpak"),
    ],
)
def test_admitted(claim, facts, alive):
    assert check(claim, facts, alive=frozenset(alive)) is None


@pytest.mark.parametrize(
    ("claim", "facts", "alive", "reason"),
    [
        pytest.param(HYBRID, process(inode=778), {10}, "VMM", id="pid number reused"),
        pytest.param(HYBRID, process(pid=11, inode=0), {10}, "VMM", id="other pid"),
        pytest.param(HYBRID, process(inode=0), set(), "VMM", id="VMM has ended"),
        pytest.param(HYBRID, VsockFacts(1, 42), set(), "another kind", id="kind"),
        pytest.param(VsockClaim(1, 42), VsockFacts(1, 43), set(), "CID 43", id="cid"),
        pytest.param(VsockClaim(1, 42), VsockFacts(2, 42), set(), "CID", id="netns"),
        pytest.param(VsockClaim(1, 42, 9), VsockFacts(1, 42), {8}, "ended", id="gone"),
        pytest.param(VsockClaim(1, 42), process(), set(), "another kind", id="unix"),
        pytest.param(CONTAINER, process(), set(), "not in this", id="host process"),
        pytest.param(CONTAINER, process(namespaces=()), set(), "not in", id="unknown"),
        pytest.param(FLATPAK, process(), set(), "not an inst", id="flatpak, host"),
        pytest.param(FLATPAK, VsockFacts(1, 2), set(), "another", id="flatpak, vm"),
    ],
)
def test_refused(claim, facts, alive, reason):
    with pytest.raises(RefusedError, match=reason):
        check(claim, facts, alive=frozenset(alive))


@pytest.mark.parametrize("cid", [0, 1, 2, 0xFFFFFFFF, -1, 1 << 32])
def test_hypervisor_loopback_host_and_any_are_never_sandboxes(cid):
    with pytest.raises(RefusedError, match="is reserved or invalid"):
        take_cid(cid)


@pytest.mark.parametrize("cid", [3, 42, 0xFFFFFFFE])
def test_other_cids_are(cid):
    assert take_cid(cid) == cid


GROUP = GroupClaim("/run/a", "/machine.slice/a.service", holder=5)


def in_group(group):
    return ProcessFacts(10, 100000, 100000, 777, (), group)


@pytest.mark.parametrize(
    "group", ["/machine.slice/a.service", "/machine.slice/a.service/payload/x y"]
)
def test_a_process_of_the_control_group_is_the_container(group):
    check(GROUP, in_group(group), alive=frozenset({5}))


@pytest.mark.parametrize(
    "group",
    [
        "",
        "/",
        "/machine.slice",
        "/machine.slice/a.servicex",
        "/machine.slice/b.service",
        "/machine.slice/b.service/machine.slice/a.service",
        "/user.slice/machine.slice/a.service",
        "/../machine.slice/a.service",
    ],
)
def test_a_process_of_another_control_group_is_refused(group):
    with pytest.raises(RefusedError, match="not in this container"):
        check(GROUP, in_group(group), alive=frozenset({5}))


def test_a_control_group_is_the_container_s_while_its_holder_lives():
    """A unit of the same name may have been started since."""
    with pytest.raises(RefusedError, match="has ended"):
        check(GROUP, in_group("/machine.slice/a.service"), alive=frozenset({6}))


BOX = SharedClaim("/run/a", 1000)
ROOTFUL = SharedClaim("/run/a", 1000, rootful=True)


def of_user(uid):
    return ProcessFacts(10, uid, uid, 777, (4,))


def test_root_draws_for_a_box_by_its_record_only():
    check(BOX, of_user(1000))
    check(ROOTFUL, of_user(1000))
    check(ROOTFUL, of_user(0))
    with pytest.raises(RefusedError, match="rootful = true in"):
        check(BOX, of_user(0))


@pytest.mark.parametrize("claim", [BOX, ROOTFUL])
def test_a_rootful_containers_other_user_is_not_in_the_box(claim):
    """As with 'podman run --userns=auto', or with --user and another's number."""
    for uid in (1001, 100_000, 65_534):
        with pytest.raises(RefusedError, match="belongs to another user"):
            check(claim, of_user(uid))

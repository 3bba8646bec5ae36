"""A lockdown's cut: what carries frames is stopped, and what is not stopped is named."""

from __future__ import annotations

import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.host.network import cut_networks
from broker.host.network.cut_networks import CutNetworks
from broker.host.processes.tracked import spawn_helper
from broker.ipc.control.methods import TABLE
from broker.ipc.control.types.leases import CutNetworksRequest
from tests.kit.eventually import eventually


@contextmanager
def processes(*roles):
    helpers = [spawn_helper(role, ["sleep", "1000"]) for role in roles]
    try:
        yield helpers
    finally:
        for process in helpers:
            process.kill_now()


def sandbox(name, carriers, flows=()):
    """A sandbox whose machine has these processes; None: others give its network."""

    def network_processes(*, flows_too):
        return None if carriers is None else (*carriers, *(flows if flows_too else ()))

    machine = SimpleNamespace(network_processes=network_processes)
    return SimpleNamespace(machine=machine, lease=SimpleNamespace(sandbox=name))


def build_cut(*sandboxes, switches=(), **options):
    leases = list(sandboxes)
    host = SimpleNamespace(active_leases=lambda: leases, before_run=None)
    switch_owner = SimpleNamespace(processes=lambda: tuple(switches))
    return leases, CutNetworks(host, switch_owner, **options)


async def change(cut_it, cut):
    with trio.fail_after(30):
        return (await cut_it.change(None, CutNetworksRequest(cut=cut))).open


async def test_carriers_are_stopped_and_continue():
    with processes("netguard", "passt", "switch") as (guard, passt, switch):
        _, it = build_cut(sandbox("a", (guard, passt)), switches=(switch,))
        assert await change(it, cut=True) == []
        assert guard.stopped
        assert passt.stopped
        assert switch.stopped
        assert await change(it, cut=False) == []
        await eventually(lambda: not (guard.stopped or passt.stopped or switch.stopped))


async def test_network_of_others_is_named():
    _, it = build_cut(sandbox("ours", ()), sandbox("domain", None))
    assert await change(it, cut=True) == ["domain"]


async def test_network_that_is_not_stopped_is_named(monkeypatch):
    """The answer is what the kernel says of the process, not what was sent to it."""
    monkeypatch.setattr(cut_networks, "_STOP_SECONDS", 0.1)
    with processes("passt") as (passt,):
        monkeypatch.setattr(passt, "kill", lambda *_number: None)
        _, it = build_cut(sandbox("a", (passt,)))
        assert await change(it, cut=True) == ["a"]


async def test_sandbox_that_begins_in_a_lockdown_has_no_network():
    """Its start was asked for before."""
    with processes("passt", "passt") as (first, second):
        leases, it = build_cut(sandbox("a", (first,)))
        it.host.before_run()
        assert not first.stopped
        await change(it, cut=True)
        leases.append(sandbox("b", (second,)))
        it.host.before_run()
        await eventually(lambda: second.stopped)


@pytest.mark.parametrize("flows_too", [False, True])
async def test_flows_of_another_machines_rules_are_stopped(flows_too):
    with processes("netguard") as (guard,):
        _, it = build_cut(sandbox("a", (), flows=(guard,)), flows_too=flows_too)
        assert await change(it, cut=True) == []
        assert guard.stopped == flows_too


async def test_a_stopped_process_is_ended_without_a_wait():
    with processes("passt") as (passt,):
        _, it = build_cut(sandbox("a", (passt,)))
        await change(it, cut=True)
        began = time.monotonic()
        await passt.end(1000)
        assert time.monotonic() - began < 500


def test_programs_of_the_user_cannot_lift_the_cut_alone():
    assert "CutNetworks" not in TABLE

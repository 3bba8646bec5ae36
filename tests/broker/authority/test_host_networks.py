"""The authority's order to cut networks: what is not answered has not happened."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from broker.authority.control.host_networks import HostNetworks
from broker.core.errors import UpstreamError
from broker.ipc.control.types.leases import CutNetworksAnswer
from broker.ipc.control.varlink import VarlinkReply, raw

LEASES = [SimpleNamespace(sandbox="a"), SimpleNamespace(sandbox="b")]


def networks(host):
    return HostNetworks(host, lambda: LEASES)


async def test_sandboxes_that_the_host_names_still_have_a_network():
    calls = []

    async def host(call, exchange):
        await trio.lowlevel.checkpoint()
        calls.append(bytes(call.parameters))
        return VarlinkReply(raw(CutNetworksAnswer(open=["b\x1b"])))

    assert await networks(host).cut(cut=True) == ["b\\x1b"]
    assert calls == [b'{"cut":true}']


async def _fails(call, exchange):
    await trio.lowlevel.checkpoint()
    raise UpstreamError("the host of this broker has ended")


async def _hangs(call, exchange):
    await trio.sleep_forever()


@pytest.mark.parametrize("host", [_fails, _hangs])
async def test_a_host_that_does_not_answer_has_cut_nothing(host, autojump_clock):
    assert await networks(host).cut(cut=True) == ["a", "b"]
    with pytest.raises(UpstreamError, match="networks are not restored"):
        await networks(host).cut(cut=False)


async def test_sandboxes_on_another_machine_keep_their_networks():
    assert await networks(None).cut(cut=True) == ["a", "b"]
    assert await networks(None).cut(cut=False) == []

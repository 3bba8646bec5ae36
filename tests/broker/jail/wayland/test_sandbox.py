"""What a sandbox's connections share: counters with ceilings, rates."""

from __future__ import annotations

import pytest

from broker.core.limits import wayland as limits
from broker.jail.wayland import sandbox as sandbox_module
from broker.jail.wayland.protocol.wire import NO_MEMORY, ProtocolFault
from broker.jail.wayland.sandbox import CEILINGS, Sandbox, Usage
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.talk import Talk


@pytest.mark.parametrize("kind", CEILINGS)
def test_every_counter_ends_at_its_ceiling_over_all_connections(kind):
    sandbox = Sandbox("work")
    one, two = Usage(sandbox), Usage(sandbox)
    one.take(kind, CEILINGS[kind] - 1)
    two.take(kind, 1)
    with pytest.raises(ProtocolFault) as caught:
        two.take(kind, 1)
    assert caught.value.code == NO_MEMORY
    assert sandbox.refused[kind] == 1
    one.give_all()
    two.take(kind, 1)
    two.give(kind, 2)
    assert sandbox.totals[kind] == 0


@pytest.mark.parametrize("kind", CEILINGS)
def test_a_record_lowers_a_ceiling_and_raises_none(kind):
    low = Sandbox("low", {kind: 2})
    usage = Usage(low)
    usage.take(kind, 2)
    with pytest.raises(ProtocolFault):
        usage.take(kind, 1)
    assert Sandbox("high", {kind: CEILINGS[kind] + 1}).ceilings == CEILINGS


def test_one_sandboxs_numbers_are_not_anothers():
    full, empty = Sandbox("full"), Sandbox("empty")
    Usage(full).take("windows", CEILINGS["windows"])
    Usage(empty).take("windows", CEILINGS["windows"])


@pytest.mark.parametrize("extra", [0, 1])
def test_a_rate_is_so_many_a_minute(extra):
    sandbox = Sandbox("work")
    for n in range(limits.WAYLAND_BELLS_PER_MINUTE):
        assert sandbox.may("bells", limits.WAYLAND_BELLS_PER_MINUTE, n * 0.1)
    if extra:
        assert not sandbox.may("bells", limits.WAYLAND_BELLS_PER_MINUTE, 10.0)
        assert sandbox.refused["bells"] == 1
        assert sandbox.may("bells", limits.WAYLAND_BELLS_PER_MINUTE, 60.05)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_oldest_activation_token_goes_first(extra):
    sandbox = Sandbox("work")
    for n in range(limits.WAYLAND_SERIALS + extra):
        sandbox.keep_token(b"%d" % n, 0.0)
    assert (b"0" in sandbox.tokens) == (not extra)


def test_an_activation_token_is_used_once_and_while_it_is_young():
    sandbox = Sandbox("work")
    for token in (b"one", b"two"):
        sandbox.keep_token(token, 5.0)
    last = 5.0 + limits.WAYLAND_TOKEN_SECONDS
    assert sandbox.use_token(b"one", last)
    assert not sandbox.use_token(b"one", last)
    assert not sandbox.use_token(b"two", last + 0.1)


@pytest.mark.parametrize("extra", [0, 1])
def test_connections_of_a_sandbox_are_bounded(extra, monkeypatch):
    monkeypatch.setattr(sandbox_module, "CEILINGS", {**CEILINGS, "clients": 2})
    sandbox = Sandbox("work")
    with Talk(sandbox=sandbox), Talk(sandbox=sandbox):
        if extra:
            with pytest.raises(ProtocolFault, match="2 clients"):
                Talk(sandbox=sandbox)
        assert len(sandbox.filters) == 2
    assert not any(sandbox.totals.values())
    with Talk(sandbox=sandbox) as again:
        again.start()


def test_shown_pixels_are_counted_as_long_as_a_surface_has_them():
    with Talk() as talk:
        talk.start()
        talk.sandbox.ceilings["shown_pixels"] = 300
        first, second = talk.surface(), talk.surface()

        def show(surface: int, w: int, h: int) -> None:
            talk.paint(surface, w, h, 0)
            talk.send(surface, "commit")

        show(first, 10, 10)
        show(first, 10, 20)
        assert talk.sandbox.totals["shown_pixels"] == 200
        show(second, 10, 10)
        talk.send(first, "attach", 0, 0, 0)
        talk.send(first, "commit")
        assert talk.sandbox.totals["shown_pixels"] == 100
        talk.send(second, "destroy")
        assert talk.sandbox.totals["shown_pixels"] == 0
        show(first, 10, 30)
        with pytest.raises(ServerError, match="shown_pixels"):
            show(talk.surface(), 1, 1)
    assert talk.sandbox.totals["shown_pixels"] == 0

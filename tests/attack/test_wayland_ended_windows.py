"""Attack on ``kill-window``: a client that reads nothing keeps the window.

Its answers fill its socket; what ends it must not wait for it to read them.
"""

from __future__ import annotations

import trio

from broker.jail.wayland.listing import cut, windows_of
from broker.jail.wayland.protocol import emit
from broker.jail.worker import duplex
from tests.kit.eventually import eventually
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop, wait_window, windows
from tests.kit.wayland.stand import CONFIG, filtered

_QUESTIONS = 400
"""Registries, some 1 KiB of answers each: more than a socket takes, less than ends it."""


def deafen(client: Window) -> None:
    """Ask, and read no answer."""
    first, client.next_id = client.next_id, client.next_id + _QUESTIONS
    client.raw(b"".join(emit.get_registry(1, n) for n in range(first, client.next_id)))


async def test_a_window_whose_client_does_not_read_is_ended_at_once(monkeypatch):
    monkeypatch.setattr(duplex, "LAST_WORDS_SECONDS", 60)
    async with desktop(config_extra=CONFIG) as comp, filtered(comp) as it:
        with Window(it.path) as client:

            def begin() -> None:
                client.start()
                _, _, top = client.show(200, 150, 0xFF00FF00)
                client.send(top, "set_title", b"deaf")
                client.roundtrip()
                deafen(client)

            await trio.to_thread.run_sync(begin)
            await wait_window(comp, title="deaf")
            (core,) = it.sandbox.filters

            async def full() -> bool:
                return len(core.down.data) > 0

            assert await eventually(full)
            (shown,) = windows_of(it.sandbox)
            cut(it.sandbox, shown.number)
            assert windows_of(it.sandbox) == []

            async def gone() -> bool:
                return not windows(await comp.tree())

            assert await eventually(gone)

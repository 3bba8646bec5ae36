"""A desktop that fails now and then; a real one: tests/integration."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from types import SimpleNamespace

import trio
from jeepney import MessageType

from broker.helpers.prompt import translation
from broker.net.session_bus import own_bus
from broker.viewer.sound.indicator import KEY_IN_USE, Indicator
from tests.kit.eventually import eventually
from tests.kit.given_up import given_up


class Desktop:
    """Shows notifications, unless it is to fail."""

    def __init__(self):
        self.shown = set()
        self.titles = []
        self.bodies = []
        self.fails = 0

    @asynccontextmanager
    async def bus(self):
        yield self

    router = bus

    async def send_and_get_reply(self, call):
        await trio.lowlevel.checkpoint()
        if self.fails:
            self.fails -= 1
            raise ConnectionResetError("the bus has gone")
        if call.header.fields[3] == "Notify":
            self.shown.add(1)
            self.titles.append(call.body[3])
            self.bodies.append(call.body[4])
            self.hints = call.body[6]
        else:
            self.shown.discard(call.body[0])
        header = SimpleNamespace(message_type=MessageType.method_return)
        return SimpleNamespace(header=header, body=(1,))


async def test_what_could_not_be_told_is_tried_again(autojump_clock, capsys):
    """This prevents an open microphone that the person does not see."""
    desktop = Desktop()
    told = Indicator(desktop.bus)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.run)
        desktop.fails = 2
        told.show("work", active=True, source="mic")
        await trio.sleep(60)
        assert desktop.shown == {1}
        # A critical one would hide on GNOME that a question waits.
        assert desktop.hints["urgency"] == ("y", 1)
        desktop.fails = 2
        told.show("work", active=False)
        await trio.sleep(60)
        assert desktop.shown == set()
        nursery.cancel_scope.cancel()
    assert capsys.readouterr().err.count("can show that a microphone is in use") == 1


async def test_without_a_bus_it_says_so_in_words(monkeypatch, capsys):
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    told, said = Indicator(own_bus), []

    def line() -> bool:
        said.append(capsys.readouterr().err)
        return "\n" in said[-1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.run)
        told.show("work", active=True, source="mic")
        await eventually(line)
        nursery.cancel_scope.cancel()
    assert "this session has no D-Bus" in "".join(said)


async def test_short_hearing_is_shown_long_enough(autojump_clock):
    desktop = Desktop()
    told = Indicator(desktop.bus)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.run)
        for _ in range(3):
            told.show("work", active=True, source="mic")
            told.show("work", active=False)
            await trio.sleep(1.9)
            assert desktop.shown == {1}
        await trio.sleep(0.2)
        assert desktop.shown == set()
        nursery.cancel_scope.cancel()


async def test_request_that_has_the_security_key_is_not_shown_longer(
    autojump_clock,
):
    """The next touch is for another one."""
    desktop = Desktop()
    told = Indicator(desktop.bus, KEY_IN_USE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.run)
        told.show("work waits {for} your touch", active=True)
        await trio.sleep(0.1)
        assert desktop.titles == ["work waits {for} your touch"]
        told.show("work waits {for} your touch", active=False)
        await trio.sleep(0.1)
        assert desktop.shown == set()
        nursery.cancel_scope.cancel()


async def test_who_listens_is_said_in_the_users_language(autojump_clock, monkeypatch):
    """Attack: a microphone whose name is a format string."""
    monkeypatch.setattr(translation.catalogue, "_found", None)  # as it was, at the end
    monkeypatch.setattr(translation.catalogue, "language", "en")
    translation.catalogue.choose(["de"])
    desktop = Desktop()
    told = Indicator(desktop.bus)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.run)
        told.show("work", active=True, source="{name} %s <b>")
        await trio.sleep(1)
        assert desktop.titles == ["work nimmt Ihr Mikrofon auf"]
        assert desktop.bodies == ["von {name} %s &lt;b&gt;"]
        nursery.cancel_scope.cancel()


class LateDesktop(Desktop):
    """Shows one before its answer is read."""

    async def send_and_get_reply(self, call):
        answer = await super().send_and_get_reply(call)
        await trio.lowlevel.checkpoint()
        return answer


async def test_an_indicator_that_ends_as_it_shows_one_leaves_none(
    autojump_clock,
):
    """It would stay for ever: "records your microphone", and nobody knows its number."""
    for moment in count(1):
        desktop = LateDesktop()
        told = Indicator(desktop.bus, KEY_IN_USE)
        told.show("work", active=True)

        async def a_while(told=told):
            with trio.move_on_after(60):
                await told.run()

        cut = await given_up(a_while, moment)
        assert desktop.shown == set(), f"moment {moment}"
        if not cut:
            break

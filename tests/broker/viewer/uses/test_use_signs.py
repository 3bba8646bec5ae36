"""The list of what sandboxes use, and the notifications about it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.helpers.prompt import translation
from broker.net.session_bus import own_bus
from broker.viewer.notifications.desktop_server import (
    DISMISSED,
    EXPIRED,
    TAKEN_BACK,
    UNDEFINED,
    ServerTold,
    _notify,
)
from broker.viewer.uses.use_signs import (
    CAMERA,
    MICROPHONE,
    SECURITY_KEY,
    UseSigns,
)
from tests.broker.viewer.notifications.test_notification_service import Server
from tests.kit.eventually import eventually


@pytest.fixture
async def signs(nursery):
    signs = UseSigns(None)
    signs._server = Server()
    signs.changes = []
    signs.changed = lambda: signs.changes.append(signs.marks("work"))
    nursery.start_soon(signs.run)
    return signs


def titles(signs):
    return [bubble.title for bubble in signs._server.shown.values()]


async def test_use_is_shown_while_it_lasts(autojump_clock, signs):
    signs.show(MICROPHONE, "work", active=True, source="mic <b>")
    await wait_all_tasks_blocked()
    assert titles(signs) == ["work records your microphone"]
    (bubble,) = signs._server.shown.values()
    assert bubble.body == "from mic &lt;b&gt;"
    signs.show(CAMERA, "work", active=True)
    assert signs.marks("work") == ("microphone", "camera")
    assert signs.marks("mail") == ()
    for kind in (MICROPHONE, CAMERA):
        signs.show(kind, "work", active=False)
    await trio.sleep(3)
    assert (titles(signs), signs.marks("work")) == ([], ())
    assert signs.changes == [("microphone",), ("microphone", "camera"), ("camera",), ()]


async def test_short_recording_is_shown_long_enough(autojump_clock, signs):
    """Attack: record in pieces of a tenth of a second."""
    for _ in range(3):
        signs.show(MICROPHONE, "work", active=True)
        signs.show(MICROPHONE, "work", active=False)
        await trio.sleep(1.9)
        assert signs.marks("work")
        assert len(titles(signs)) == 1
    await trio.sleep(0.2)
    assert not signs.marks("work")
    assert titles(signs) == []


@pytest.mark.parametrize("reason", [EXPIRED, TAKEN_BACK, UNDEFINED])
async def test_lost_notification_is_shown_again(autojump_clock, signs, reason):
    """The server ended, or another program closed the notification."""
    signs.show(MICROPHONE, "work", active=True)
    await wait_all_tasks_blocked()
    for _ in range(3):
        ((number, _),) = signs._server.shown.items()
        signs._server.shown.clear()
        signs._handle_signal(ServerTold(number, reason=reason))
        await trio.sleep(11)
        assert titles(signs) == ["work records your microphone"]
    assert signs.marks("work")


async def test_notification_that_the_user_closed_stays_closed(autojump_clock, signs):
    """Frames and banner show the use all the same."""
    signs.show(MICROPHONE, "work", active=True)
    await wait_all_tasks_blocked()
    ((number, _),) = signs._server.shown.items()
    signs._server.shown.clear()
    signs._handle_signal(ServerTold(number, reason=DISMISSED))
    await trio.sleep(60)
    assert titles(signs) == []
    assert signs.marks("work") == ("microphone",)
    signs.show(MICROPHONE, "work", active=False)
    await trio.sleep(60)
    signs.show(MICROPHONE, "work", active=True)
    await wait_all_tasks_blocked()
    assert titles(signs) == ["work records your microphone"]


async def test_request_at_the_security_key_is_not_shown_longer(autojump_clock, signs):
    """The next touch is for another one."""
    for text in ("work waits {for} one", "work waits {for} another"):
        signs.show(SECURITY_KEY, "work", active=True, title=text)
        await trio.sleep(0.1)
        assert titles(signs) == [text]
        assert signs.marks("work") == ("security-key",)
        signs.show(SECURITY_KEY, "work", active=False)
    await trio.sleep(0.1)
    assert titles(signs) == []


async def test_notification_has_our_icon_and_stays(signs):
    signs.show(MICROPHONE, "work", active=True)
    await wait_all_tasks_blocked()
    (bubble,) = signs._server.shown.values()
    _, _, icon, _, _, _, hints, expire = _notify(
        bubble, 0, SimpleNamespace(markup=True, buttons=True)
    ).body
    assert (icon, expire) == ("audio-input-microphone", 0)
    # A critical one would hide on GNOME that a question waits.
    assert hints["urgency"][1] == 1


async def test_use_is_named_in_the_users_language(autojump_clock, signs, monkeypatch):
    """Attack: a microphone whose name is a format string."""
    monkeypatch.setattr(translation.catalogue, "_found", None)  # as it was, at the end
    monkeypatch.setattr(translation.catalogue, "language", "en")
    translation.catalogue.choose(["de"])
    signs.show(MICROPHONE, "work", active=True, source="{name} %s <b>")
    await wait_all_tasks_blocked()
    (bubble,) = signs._server.shown.values()
    assert bubble.title == "work nimmt Ihr Mikrofon auf"
    assert bubble.body == "von {name} %s &lt;b&gt;"


async def test_missing_bus_is_reported_in_plain_english(monkeypatch, capsys, nursery):
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    signs, lines = UseSigns(own_bus), []

    def line() -> bool:
        lines.append(capsys.readouterr().err)
        return "\n" in lines[-1]

    nursery.start_soon(signs.run)
    signs.show(MICROPHONE, "work", active=True, source="mic")
    await eventually(line)
    assert "this session has no D-Bus" in "".join(lines)
    assert signs.marks("work") == ("microphone",)

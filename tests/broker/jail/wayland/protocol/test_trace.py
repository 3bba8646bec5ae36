"""The trace of one connection: both conversations, escaped."""

from __future__ import annotations

import pytest

from broker.jail.wayland.protocol.trace import TracedFilter, Tracer
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.model import connect
from tests.kit.wayland.talk import Talk


class Traced(Talk):
    def __init__(self):
        super().__init__()
        self.core.close()
        self.lines = []
        self.core = TracedFilter(self.rules, self.sandbox, self.machine)
        self.core.tracer = Tracer(self.lines.append)
        self.model = type(self.model)()
        connect(self.core, self.model)


@pytest.fixture
def talk():
    with Traced() as it:
        yield it.start()


def test_a_changed_message_is_printed_beside_the_original(talk):
    _, _, top = talk.show(20, 20, 0)
    talk.lines.clear()
    talk.send(top, "set_title", b"a\x1b[31m\xe2\x80\xaeb")
    asked, passed = talk.lines
    assert (
        f'client ->       xdg_toplevel#{top}.set_title("a\\x1b[31m\\u202eb")' in asked
    )
    assert "-> comp" in passed
    assert 'set_title("[work] a[31mb")' in passed


def test_a_refusal_is_told_with_its_reason(talk):
    with pytest.raises(ServerError):
        talk.bind_raw(999, "zwlr_layer_shell_v1", 1)
    assert any("REFUSED" in line and "no global 999" in line for line in talk.lines)


def test_no_line_has_a_control_character(talk):
    talk.show(20, 20, 0)
    assert len(talk.lines) > 50
    assert all(line.isprintable() for line in talk.lines)


def test_half_a_message_waits_for_the_rest(talk):
    talk.lines.clear()
    whole = b"\x01\0\0\0\0\0\x0c\0" + talk.new("wl_callback").to_bytes(4, "little")
    talk.raw(whole[:5])
    assert talk.lines == []
    talk.raw(whole[5:])
    assert "wl_display#1.sync(new wl_callback" in talk.lines[0]

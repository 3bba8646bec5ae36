"""From a record to the rules that a worker gets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from broker.core.errors import InternalError, RefusedError
from broker.core.names import SandboxName
from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.ipc import worker
from broker.ipc.wayland_rules import order_of, traced
from broker.jail.wayland.sandbox import CEILINGS
from broker.viewer.wayland.window_rules import rules_from
from policy.tools.record_files import parse_record

FULL = """\
class = "disposable"
display = "allow"
[label]
name = "Bank"
colour = "red"
[window]
border = 6
name_strip = true
top = 20
fullscreen = "framed"
translucent = true
subsurfaces = "promote"
allow = ["zwp_idle_inhibit_manager_v1"]
deny = ["xdg_activation_v1"]
windows = 3
popups = 4
surfaces = 50
buffer_memory = "64M"
[limits]
wayland_clients = 7
"""


def record(text, name="bank"):
    found, problems = parse_record(name, Path(f"/x/{name}.toml"), text.encode())
    assert not problems
    return found


def test_everything_that_a_record_says_of_windows_is_in_the_rules():
    rules = rules_from(record(FULL), SandboxName("bank-0001"))
    shown = "Bank 0001"  # so two disposables of the record differ
    assert (rules.name, rules.prefix, rules.shown) == ("bank-0001", shown, shown)
    assert rules_from(record(FULL), SandboxName("bank")).shown == "Bank"
    assert (rules.color, rules.border, rules.top) == (0xD55E00, 6, 20)
    assert (rules.label, rules.translucent, rules.promote) == (True, True, True)
    assert rules.fullscreen is Fullscreen.FRAMED
    assert rules.allow == {"zwp_idle_inhibit_manager_v1"}
    assert rules.deny == {"xdg_activation_v1"}
    assert rules.ceilings == {
        "clients": 7,
        "windows": 3,
        "popups": 4,
        "surfaces": 50,
        "shm_bytes": 64 << 20,
        "gpu_bytes": 64 << 20,
    }
    assert rules.ceilings.keys() <= CEILINGS.keys()


def test_a_record_that_says_nothing_gets_the_default_frame_and_its_own_name():
    rules = rules_from(record('class = "persistent"\n'), SandboxName("bank-0002"))
    assert rules.shown == "bank-0002", "two disposables of one record differ"
    plain = WindowRules("bank-0002", color=0x555555)
    assert (rules.border, rules.top, rules.fullscreen) == (4, 4, plain.fullscreen)
    assert not rules.allow
    assert not rules.translucent
    assert not rules.promote
    assert {k: CEILINGS[k] for k in rules.ceilings} == dict(rules.ceilings)


@pytest.mark.parametrize("text", [FULL, 'class = "persistent"\n'])
def test_the_worker_gets_the_same_rules(text):
    rules = rules_from(record(text), SandboxName("bank"))
    said = worker.encode(order_of(rules))
    order = worker.decode_to_worker(said)
    assert isinstance(order, worker.FrameRules)
    assert order.rules == rules


@pytest.mark.parametrize(
    "lie",
    [
        {"border": 0},
        {"border": 65},
        {"allow": ["ext_session_lock_manager_v1"]},
        {"deny": ["no_such_thing"]},
        {"fullscreen": "naked"},
        {"marks": ["bank] x"]},
        {"marks": [""]},
        {"marks": ["asks"] * 9},
    ],
)
def test_what_no_rules_can_be_is_refused(lie):
    order = msgspec.to_builtins(order_of(WindowRules("a")))
    order["rules"] |= lie
    with pytest.raises((RefusedError, InternalError)):
        worker.decode_to_worker(msgspec.msgpack.encode(order))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", False), ("wayland", True), ("x,wayland", True), ("wayland2", False)],
)
def test_a_trace_is_asked_for_by_name(monkeypatch, value, expected):
    monkeypatch.setenv("VITRAIL_DEBUG", value)
    assert traced() is expected
    assert order_of(WindowRules("a")).trace is expected

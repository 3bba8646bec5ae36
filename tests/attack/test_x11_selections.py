"""An X11 program against another one of its sandbox, by selections and XDND."""

from __future__ import annotations

import os
import struct
from types import SimpleNamespace

import pytest

from shims.x11.objects import WireObject
from shims.x11.x11 import Property
from tests.kit.x11 import ROOT, Ends

ONE = 0x400001
OFFER = 0xFF000005
LARGE = b"x" * (1 << 18)


def offered(ends: Ends, mime: str = "text/plain") -> int:
    """The compositor offers a type for its clipboard; returns the device."""
    device: int = ends.bridge.selections.device().device.up
    ends.tell(device, "data_offer", OFFER)
    ends.above[OFFER] = "wl_data_offer"
    ends.run()
    ends.tell(OFFER, "offer", mime)
    return device


def pasting(ends: Ends, requestor: int, target: bytes) -> None:
    """A program asks for the clipboard."""
    atoms = ends.atom(b"CLIPBOARD"), ends.atom(target), ends.atom(b"PASTE")
    ends.event(30, "6I", 0, ends.core.helper, requestor, *atoms)
    ends.run()


@pytest.mark.parametrize("root", [True, False])
def test_a_paste_into_the_root_window_takes_no_events_of_the_manager(root):
    """X11 keeps one mask for a client and a window: the manager's is the redirection.

    Without it no window of the sandbox is shown any more.
    """
    ends = Ends()
    ends.tell(offered(ends), "selection", OFFER)
    ends.run()
    before = ends.x_asked[2]
    pasting(ends, ROOT if root else ONE, b"UTF8_STRING")
    assert ends.count("wl_data_offer", "receive") == int(not root)
    for transfer in list(ends.bridge.selections._transfers):
        transfer.data += LARGE
    ends.bridge.selections.ready(ends.bridge.selections.readers())
    ends.run()
    assert ends.x_asked[2] - before == int(not root)
    ends.bridge.close()


def test_an_atom_is_asked_for_again_when_it_did_not_exist():
    """A program can list the numbers of atoms that others will make later."""
    ends = Ends()
    later = len(ends.atoms) + 1
    ends.bridge.selections.named(lambda _types: None, [later, later + 1])
    ends.run()
    ends.tell(offered(ends, "image/png"), "selection", OFFER)
    ends.run()
    assert ends.atom(b"image/png") in (later, later + 1)
    pasting(ends, ONE, b"image/png")
    assert ends.count("wl_data_offer", "receive") == 1
    ends.bridge.close()


def test_names_of_targets_are_listed_once():
    """Programs with both protocols offer X11's names of text on Wayland, too."""
    ends = Ends()
    offer = SimpleNamespace(data=["text/plain", "UTF8_STRING", "STRING", "image/png"])
    names = ends.bridge.selections.target_names(offer)
    assert names == ["text/plain", "UTF8_STRING", "STRING", "image/png", "TEXT"]
    ends.bridge.close()


@pytest.mark.parametrize("takes", [True, False])
def test_a_refusal_that_crosses_the_drop_is_no_finish(takes):
    """wl_data_offer.finish without an accepted type is an error (invalid_finish)."""
    ends = Ends()
    surface = ends.show(ONE)
    ends.properties[ONE, "XdndAware"] = (32, struct.pack("<I", 5))
    device = offered(ends)
    ends.tell(device, "enter", 60, ends.up(surface), 20.0, 30.0, OFFER)
    ends.run()
    for flags in (1, int(takes)):
        ends.message(ends.core.helper, "XdndStatus", ONE, flags)
    ends.run()
    # On their way when the second answer was sent.
    ends.tell(OFFER, "action", 1)
    ends.tell(device, "drop")
    ends.run()
    ends.message(ends.core.helper, "XdndFinished", ONE, 1)
    ends.run()
    assert ends.count("wl_data_offer", "finish") == int(takes)
    assert ends.count("wl_data_offer", "destroy") == 1
    ends.bridge.close()


def test_a_program_that_begins_a_drag_again_and_again_has_one_timer():
    """All timers are looked at in each turn of the bridge."""
    ends = Ends()
    surface = ends.show(ONE)
    pointer = ends.up(ends.pointer)
    ends.tell(pointer, "enter", 50, ends.up(surface), 10.0, 10.0)
    ends.tell(pointer, "button", 51, 0, 0x110, 1)
    ends.run()
    before = len(ends.core._timers)
    for _ in range(100):
        ends.event(90, "III", ends.core.helper, ONE, ends.atom(b"XdndSelection"))
    ends.run()
    assert ends.core.dragging
    assert len(ends.core._timers) - before == 1
    ends.now += 6
    ends.run()
    assert not ends.core.dragging
    ends.bridge.close()


@pytest.mark.parametrize(
    ("mime", "given"),
    [("text/plain", "Grüße".encode()), ("image/png", "Grüße".encode("latin-1"))],
)
def test_only_text_of_the_type_string_is_latin(mime, given):
    """Tk gives any target as STRING unless told otherwise (selection handle -format)."""
    ends = Ends()
    selections, x = ends.bridge.selections, ends.core.x
    source = WireObject("wl_data_source", 3, 0, 9, ("CLIPBOARD", {mime: 77}))
    reads, writes = os.pipe()
    with open(reads, "rb") as pipe:
        selections._wl_data_source_send(source, mime, writes)
        (transfer,) = selections._transfers
        found = Property(x.atoms["STRING"], 8, "Grüße".encode("latin-1"), 0)
        x.property = lambda _window, _name, then, *_most, **_also: then(found)
        selections._take(transfer)
        assert bytes(transfer.data) == given
        ends.bridge.close()
        assert not pipe.read()

"""CLIPBOARD and PRIMARY, both ways: XFixes on one side, data devices on the other."""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import Callable, Dict, List, Optional

from shims.x11.core import Core, On
from shims.x11.objects import Maybe, WaylandObject, ignored
from shims.x11.wire import BridgeError
from shims.x11.x11 import Property

KINDS = {
    "CLIPBOARD": ("wl_data_device_manager", "create_data_source", "get_data_device"),
    "PRIMARY": (
        "zwp_primary_selection_device_manager_v1",
        "create_source",
        "get_device",
    ),
}
"""Selections: the interface of their manager, and its requests."""
TEXTS = {
    "UTF8_STRING": "text/plain;charset=utf-8",
    "STRING": "text/plain",
    "TEXT": "text/plain",
}
DRAG = "XdndSelection"
PIECE = 1 << 17
"""Bytes of one property; more go in pieces (ICCCM 2.7.2)."""
MOST_BYTES = 64 << 20
MOST_TYPES, MOST_TRANSFERS = 100, 32
TRANSFER_SECONDS = 30.0


def offered_types(names: List[str], atoms: List[int]) -> Dict[str, int]:
    """Return MIME types that X11's targets mean, each with its target."""
    found: Dict[str, int] = {}
    for name, atom in zip(names, atoms):
        mime = TEXTS.get(name) or (name if "/" in name and len(name) < 256 else "")
        if mime and len(found) < MOST_TYPES:
            found.setdefault(mime, atom)
    return found


def wanted_type(target: str, offered: List[str]) -> str:
    """Return the offered type that an X11 target means, or ""."""
    if target in TEXTS:
        known = ("text/plain;charset=utf-8", "UTF8_STRING", "text/plain")
        return next((mime for mime in known if mime in offered), "")
    return target if target in offered else ""


class SelectionTransfer:
    """Data under way: from a program to a descriptor, or back."""

    def __init__(self, number: int, fd: int, until: float) -> None:
        self.number, self.fd, self.until = number, fd, until
        self.data = bytearray()
        self.whole = False  # all of it is in ``data``
        self.writes = False
        self.prop = self.target = self.requestor = 0
        self.incremental = False
        self.answer: Callable[..., None] = ignored
        """Tells once whether the requestor has its data."""


class SharedSelection:
    """One of the two, and what stands in it."""

    def __init__(
        self, name: str, manager: WaylandObject, device: WaylandObject
    ) -> None:
        self.name, self.manager, self.device = name, manager, device
        self.offer: Maybe = None
        self.source: Maybe = None
        self.types: Dict[str, int] = {}
        self.unsaid = False


class Selections:
    """Handles both selections; ``readers`` and ``writers`` are for the shell's poll."""

    def __init__(self, core: Core) -> None:
        self._core, self._x, self._relay = core, core.x, core.relay
        self._found: Dict[str, SharedSelection] = {}
        self._transfers: List[SelectionTransfer] = []
        self._count = 0
        self.on_drag: Callable[[], None] = lambda: None
        """Called when an X11 program begins a drag."""
        self.on_drag_cancelled: Callable[[], None] = lambda: None
        self.drag_offer: Callable[[], Maybe] = lambda: None
        core.events[On.SELECTION_REQUEST] = self._request
        core.events[On.SELECTION] = self._notify
        hear = core.relay.hear
        for kind in ("wl_data_%s", "zwp_primary_selection_%s_v1"):
            device, source, offer = (kind % n for n in ("device", "source", "offer"))
            hear(device, data_offer=self._data_offer, selection=self._selection)
            hear(source, send=self._send, cancelled=self._cancelled)
            hear(offer, offer=self._offer_type)
        core.begin.append(self._begin)

    def start(self) -> None:
        """Bind the data devices."""
        for name, (interface, _, get) in KINDS.items():
            manager = self._core.bind(interface, 3)
            if manager is not None:
                device = self._relay.create(manager, get, self._core.seat, data=name)
                self._found[name] = SharedSelection(name, manager, device)

    def device(self) -> Optional[SharedSelection]:
        """Return the clipboard's objects, which drags use, too."""
        return self._found.get("CLIPBOARD")

    def _begin(self) -> None:
        self._x.extension("XFIXES", self._watch)
        for selection in self._found.values():
            self._own(selection)

    def _watch(self, opcode: int, event: int) -> None:
        x = self._x
        if opcode:
            x.request(opcode, 6, 0, then=ignored)
            # Our own connection does not keep the server from ending (version 6).
            x.request(opcode, 1, minor=33)
            self._core.events[event] = self._owner_changed
            for name in (*KINDS, DRAG):
                x.request(opcode, self._core.helper, x.atoms[name], 7, minor=2)

    # -- from X11: its owner's types become a source

    def _owner_changed(self, event: bytes) -> None:
        _, owner, atom = struct.unpack_from("<III", event, 4)
        if owner in (0, self._core.helper):
            return
        if atom == self._x.atoms[DRAG]:
            self.on_drag()
        elif self._x.name(atom) in self._found:
            self._convert(atom, self._x.atoms["TARGETS"], self._x.atoms["TARGETS"])

    def _convert(self, *words: int) -> None:
        """Ask an owner for its selection: which, as what, into which property."""
        self._x.request(24, self._core.helper, *words, 0)

    def _notify(self, event: bytes) -> None:
        _, requestor, atom, target, prop = struct.unpack_from("<IIIII", event, 4)
        if requestor != self._core.helper:
            return
        selection = self._found.get(self._x.name(atom))
        if target == self._x.atoms["TARGETS"] and selection is not None and prop:
            offer = partial(self._offer, selection)
            self._x.property(requestor, prop, partial(self.listed, offer), delete=True)
            return
        waiting = [t for t in self._transfers if t.writes and not t.incremental]
        for transfer in [t for t in waiting if t.target == target][:1]:
            transfer.whole = not prop
            if prop == transfer.prop:
                self._take(transfer)

    def listed(
        self, then: Callable[[Dict[str, int]], None], found: Optional[Property]
    ) -> None:
        """Call back with the types in a list of atoms that a program has made."""
        self.named(then, list(found.words()[:256]) if found is not None else [])

    def named(self, then: Callable[[Dict[str, int]], None], atoms: List[int]) -> None:
        """Call back with the types that are these atoms' names."""
        self._x.names(atoms, lambda names: then(offered_types(names, atoms)))

    def source(
        self, selection: SharedSelection, name: str, types: Dict[str, int]
    ) -> WaylandObject:
        """Make a source of these types, for X11's selection of that name."""
        create, relay = KINDS[selection.name][1], self._relay
        made = relay.create(selection.manager, create, data=(name, types))
        for mime in types:
            relay.ask(made, "offer", mime)
        return made

    def _offer(self, selection: SharedSelection, types: Dict[str, int]) -> None:
        core, old = self._core, selection.source
        if types:
            selection.types, selection.unsaid = types, core.focus is None
            selection.source = made = self.source(selection, selection.name, types)
            core.relay.ask(selection.device, "set_selection", made, core.serial)
            core.relay.release(old)

    def say_again(self) -> None:
        """A window has the keyboard: what was copied without it may be said now."""
        for selection in self._found.values():
            if selection.unsaid:
                self._offer(selection, selection.types)

    def _send(self, source: WaylandObject, mime: str, fd: int) -> None:
        name, types = source.data
        x, atom = self._x, types.get(mime)
        if atom is None or source.dead or len(self._transfers) >= MOST_TRANSFERS:
            os.close(fd)
            return
        transfer = self._begin_transfer(fd)
        transfer.writes, transfer.target = True, atom

        def convert(atoms: List[int]) -> None:
            transfer.prop = atoms[0]
            self._convert(x.atoms[name], atom, transfer.prop)

        x.intern([f"_VITRAIL_{transfer.number % MOST_TRANSFERS}"], convert)

    def _begin_transfer(self, fd: int) -> SelectionTransfer:
        os.set_blocking(fd, False)
        self._count += 1
        until = self._core.clock() + TRANSFER_SECONDS
        transfer = SelectionTransfer(self._count, fd, until)
        self._transfers.append(transfer)
        return transfer

    def _take(self, transfer: SelectionTransfer) -> None:
        """Read the property that the owner has set for us."""

        def taken(found: Optional[Property]) -> None:
            if found is not None and found.kind == self._x.atoms["INCR"]:
                transfer.incremental = True
                return
            transfer.data += found.data if found is not None else b""
            last = found is None or not found.data
            transfer.whole = last or not transfer.incremental
            if len(transfer.data) > MOST_BYTES or (found is not None and found.more):
                self._end(transfer)

        place, most = (self._core.helper, transfer.prop), MOST_BYTES // 4
        self._x.property(*place, taken, units=most, delete=True)

    def property_changed(self, window: int, atom: int, gone: int) -> None:
        """The next piece is there, or was taken."""
        for transfer in list(self._transfers):
            owner = self._core.helper if transfer.writes else transfer.requestor
            mine = (transfer.prop, owner) == (atom, window) and transfer.incremental
            if mine and transfer.writes != bool(gone):
                transfer.until = self._core.clock() + TRANSFER_SECONDS
                (self._take if transfer.writes else self._give_piece)(transfer)

    def _cancelled(self, source: WaylandObject) -> None:
        selection = self._found.get(source.data[0])
        if selection is not None and selection.source is source:
            selection.source = None
            if self._core.managing:
                self._own(selection)
        elif selection is None:
            self.on_drag_cancelled()
        self._relay.release(source)

    # -- to X11: we own its selection while the compositor offers something

    def _data_offer(self, device: WaylandObject, number: int) -> None:
        kind = device.interface.replace("device", "offer")
        if number < 0xFF000000 or number in self._relay.by_up:
            raise BridgeError(f"the compositor made an offer with the id {number}")
        made = WaylandObject(kind, device.version, 0, number, [])
        self._relay.by_up[number] = made

    def _offer_type(self, offer: WaylandObject, mime: str) -> None:
        if len(offer.data) < 2 * MOST_TYPES:
            offer.data.append(mime)

    def _selection(self, device: WaylandObject, offer: Maybe) -> None:
        selection = self._found[device.data]
        self.drop_offer(selection.offer)
        selection.offer = offer
        if self._core.managing:
            self._own(selection)

    def drop_offer(self, offer: Maybe) -> None:
        """Destroy an offer; its id is the compositor's, so it is free at once."""
        if offer is not None and not offer.dead:
            self._relay.release(offer)
            self._relay.by_up.pop(offer.up, None)

    def _own(self, selection: SharedSelection) -> None:
        if selection.source is None:
            owner = self._core.helper if selection.offer is not None else 0
            self._x.own(owner, selection.name)

    def _request(self, event: bytes) -> None:
        """Answer a program from what the compositor offers."""
        when, _, requestor, atom, target, prop = struct.unpack_from("<6I", event, 4)
        prop = prop or target
        selection = self._found.get(self._x.name(atom))
        offer = selection.offer if selection is not None else None
        if atom == self._x.atoms[DRAG]:
            offer = self.drag_offer()

        def reply(*, given: bool) -> None:
            words = (when, requestor, atom, target, prop if given else 0)
            event = struct.pack("<BBH5I", On.SELECTION, 0, 0, *words)
            self._x.send_event(requestor, 0, event)

        def known(atoms: List[int]) -> None:
            self._x.set_property(requestor, prop, "ATOM", atoms)
            reply(given=True)

        def named(names: List[str]) -> None:
            there = offer if offer is not None and not offer.dead else None
            mime = wanted_type(names[0], there.data) if there is not None else ""
            if there is not None and names[0] == "TARGETS":
                self._x.intern(["TARGETS", *self.target_names(there)], known)
            elif not mime or len(self._transfers) >= MOST_TRANSFERS:
                reply(given=False)
            else:
                read, write = os.pipe()
                self._relay.ask(offer, "receive", mime, write)
                transfer = self._begin_transfer(read)
                transfer.requestor, transfer.prop = requestor, prop
                transfer.target, transfer.answer = target, reply

        self._x.names([target], named)

    def target_names(self, offer: WaylandObject) -> List[str]:
        """Return X11's names of the offered types."""
        text = any(mime.startswith("text/plain") for mime in offer.data)
        return [*offer.data, *(["UTF8_STRING", "STRING", "TEXT"] if text else [])]

    def _give(self, transfer: SelectionTransfer) -> None:
        """All of a paste has come: hand it over, in pieces if it is large."""
        x, size = self._x, len(transfer.data)
        transfer.incremental = size > PIECE
        if transfer.incremental:
            x.select(transfer.requestor, 1 << 22)
            x.set_property(transfer.requestor, transfer.prop, "INCR", [size])
        else:
            self._give_piece(transfer)
        transfer.answer(given=True)
        transfer.answer = ignored
        if not transfer.incremental:
            self._end(transfer)

    def _give_piece(self, transfer: SelectionTransfer) -> None:
        piece = bytes(transfer.data[:PIECE])
        del transfer.data[:PIECE]
        prop, target = transfer.prop, transfer.target
        self._x.set_property(transfer.requestor, prop, target, piece)
        if transfer.incremental and not piece:
            self._end(transfer)

    # -- descriptors

    def readers(self) -> List[int]:
        """Return descriptors that a paste comes from."""
        return [t.fd for t in self._transfers if not t.writes and not t.whole]

    def writers(self) -> List[int]:
        """Return descriptors that have something to take."""
        return [t.fd for t in self._transfers if t.writes and (t.data or t.whole)]

    def ready(self, fd: int) -> None:
        """Move bytes where it goes without waiting."""
        transfer = next((t for t in self._transfers if t.fd == fd), None)
        try:
            if transfer is not None:
                self._move(transfer)
        except BlockingIOError:
            return
        except OSError:
            self._end(transfer)

    def _move(self, transfer: SelectionTransfer) -> None:
        if transfer.writes:
            if transfer.data:
                del transfer.data[: os.write(transfer.fd, transfer.data[: 1 << 16])]
            if transfer.whole and not transfer.data:
                self._end(transfer)
            return
        data = os.read(transfer.fd, 1 << 16)
        transfer.data += data
        if not data:
            transfer.whole = True
            self._give(transfer)
        elif len(transfer.data) > MOST_BYTES:
            self._end(transfer)

    def expire(self) -> None:
        """Give up what does not move."""
        for transfer in [t for t in self._transfers if t.until < self._core.clock()]:
            self._end(transfer)

    def _end(self, transfer: Optional[SelectionTransfer]) -> None:
        if transfer is not None and transfer in self._transfers:
            self._transfers.remove(transfer)
            os.close(transfer.fd)
            transfer.answer(given=False)

    def close(self) -> None:
        """Close all descriptors."""
        for transfer in list(self._transfers):
            self._end(transfer)

"""CLIPBOARD and PRIMARY, both ways: XFixes on one side, data devices on the other."""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import Callable, Optional, Sequence

from shims.x11.core import SELECTION, BridgePart, Core
from shims.x11.objects import Maybe, WireObject, ignored
from shims.x11.wire import BridgeError
from shims.x11.x11 import Property

KINDS = {
    "CLIPBOARD": ("wl_data_device_manager", "data_"),
    "PRIMARY": ("zwp_primary_selection_device_manager_v1", ""),
}
"""Selections: the interface of their manager, and how its requests differ."""
TEXTS = {
    "UTF8_STRING": "text/plain;charset=utf-8",
    "STRING": "text/plain",
    "TEXT": "text/plain",
}
DRAG = "XdndSelection"
_ALWAYS = ("TARGETS", "TIMESTAMP", "MULTIPLE")
"""Targets that every owner answers (ICCCM 2.6.2)."""
TakesTypes = Callable[[dict[str, int]], None]
PIECE = 1 << 17
"""Bytes of one property; more go in pieces (ICCCM 2.7.2)."""
MOST_BYTES = 64 << 20
MOST_TYPES, MOST_TRANSFERS, MOST_PAIRS = 100, 32, 16
TRANSFER_SECONDS = 30.0


def offered_types(names: list[str], atoms: list[int]) -> dict[str, int]:
    """Return MIME types that X11's targets mean, each with its target."""
    found: dict[str, int] = {}
    # STRING is Latin-1: whoever has UTF-8 gives it for both.
    plain = dict(zip(names, atoms)).get("UTF8_STRING")
    if plain is not None and "text/plain" not in names and "STRING" in names:
        found["text/plain"] = plain
    for name, atom in zip(names, atoms):
        mime = TEXTS.get(name) or (name if "/" in name and len(name) < 256 else "")
        if mime and len(found) < MOST_TYPES:
            found.setdefault(mime, atom)
    return found


def wanted_type(target: str, offered: list[str]) -> str:
    """Return the offered type that an X11 target means, or ""."""
    if target in TEXTS:
        # Other spellings of a type, which is one whatever its capitals are (RFC 2045).
        spelt = {mime.lower().replace(" ", ""): mime for mime in reversed(offered)}
        known = ("text/plain;charset=utf-8", "utf8_string", "text/plain")
        return next((spelt[mime] for mime in known if mime in spelt), "")
    return target if target in offered else ""


class SelectionTransfer:
    """Data under way: from a program to a descriptor, or back."""

    def __init__(self, fd: int, until: float) -> None:
        self.fd, self.until = fd, until
        self.data = bytearray()
        self.whole = False  # all of it is in ``data``
        self.writes = self.text = False
        self.prop = self.target = self.requestor = 0
        self.incremental = False
        self.answer: Callable[..., None] = ignored
        """Tells once whether the requestor has its data."""


class SharedSelection:
    """One of the two, and its content."""

    def __init__(self, name: str, manager: WireObject, device: WireObject) -> None:
        self.name, self.manager, self.device = name, manager, device
        self.offer: Maybe = None
        self.source: Maybe = None
        self.types: dict[str, int] = {}
        self.unsaid = False
        self.since = 0
        """The server's time when we took it."""


class Selections(BridgePart):
    """Handles both selections; ``readers`` and ``writers`` are for the shell's poll."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._found: dict[str, SharedSelection] = {}
        self._transfers: list[SelectionTransfer] = []
        self.drag_offer: Callable[[], Maybe] = lambda: None

    def _on_bound(self) -> None:
        """Create the data devices of CLIPBOARD and PRIMARY, once globals are bound."""
        for name, (interface, kind) in KINDS.items():
            manager, request = self._core.bound.get(interface), f"get_{kind}device"
            if manager is not None:
                seat = self._core.seat
                device = self._relay.create(manager, request, seat, data=name)
                self._found[name] = SharedSelection(name, manager, device)

    def device(self) -> Optional[SharedSelection]:
        """Return the clipboard's objects, which drags use, too."""
        return self._found.get("CLIPBOARD")

    def _on_managing(self) -> None:
        self._x.extension("XFIXES", self._watch, 6, 0)
        for selection in self._found.values():
            self._own(selection)

    def _watch(self, opcode: int, event: int) -> None:
        """Ask XFixes for changes of the selections' owners."""
        x = self._x
        # Our own connection does not keep the server from ending (version 6).
        x.request(opcode, 1, minor=33)
        self._core.events[event] = ("owner", "8x4I")
        for name in (*KINDS, DRAG):
            x.request(opcode, self._core.helper, x.atoms[name], 7, minor=2)

    # -- from X11: its owner's types become a source

    def _on_x_owner(self, owner: int, atom: int, _when: int, since: int) -> None:
        """Ask a new owner for its types, or note a drag."""
        if owner == self._core.helper and (own := self._found.get(self._x.name(atom))):
            own.since = since
        if owner in (0, self._core.helper):
            return
        if atom == self._x.atoms[DRAG]:
            self._core.tell("drag")
        elif self._x.name(atom) in self._found:
            self._convert(atom, self._x.atoms["TARGETS"], self._x.atoms["TARGETS"])

    def _convert(self, *words: int) -> None:
        """Ask an owner for its selection: which, as what, into which property."""
        self._x.request(24, self._core.helper, *words, 0)

    def _on_x_selection(self, _when: int, requestor: int, *words: int) -> None:
        """Read the types or the data that an owner delivered."""
        atom, target, prop = words
        if requestor != self._core.helper:
            return
        selection = self._found.get(self._x.name(atom))
        if target == self._x.atoms["TARGETS"] and selection is not None and prop:
            offer = partial(self._offer, selection)
            self._x.property(requestor, prop, partial(self.listed, offer), delete=True)
            return
        waiting = [t for t in self._transfers if t.writes and not t.incremental]
        if prop:
            # Of two pastes at once the first may still wait for its property.
            for transfer in [t for t in waiting if t.prop == prop]:
                self._take(transfer)
            return
        for transfer in [t for t in waiting if t.target == target][:1]:
            transfer.whole = True

    def listed(self, then: TakesTypes, found: Property) -> None:
        """Call back with the types in a list of atoms that a program has made."""
        self.named(then, list(found.words()[:256]))

    def named(self, then: TakesTypes, atoms: list[int]) -> None:
        """Call back with the types that are these atoms' names."""
        self._x.names(atoms, lambda names: then(offered_types(names, atoms)))

    def source(
        self, selection: SharedSelection, name: str, types: dict[str, int]
    ) -> WireObject:
        """Make a source of these types, for X11's selection of that name."""
        request, relay = f"create_{KINDS[selection.name][1]}source", self._relay
        made = relay.create(selection.manager, request, data=(name, types))
        for mime in types:
            relay.ask(made, "offer", mime)
        return made

    def _offer(self, selection: SharedSelection, types: dict[str, int]) -> None:
        """Offer an X11 selection to the compositor."""
        core, old = self._core, selection.source
        if types:
            selection.types, selection.unsaid = types, core.focus is None
            selection.source = made = self.source(selection, selection.name, types)
            core.relay.ask(selection.device, "set_selection", made, core.serial)
            core.relay.release(old)

    def _on_focus(self) -> None:
        """A window has the keyboard: an earlier copy may be announced now."""
        for selection in self._found.values():
            if selection.unsaid:
                self._offer(selection, selection.types)

    def _wl_data_source_send(self, source: WireObject, mime: str, fd: int) -> None:
        """Fetch data of X11 for a Wayland program's pipe."""
        name, types = source.data
        x, atom = self._x, types.get(mime)
        if atom is None or source.dead or len(self._transfers) >= MOST_TRANSFERS:
            os.close(fd)
            return
        transfer = self._begin_transfer(fd)
        transfer.writes, transfer.target = True, atom
        transfer.text = mime.startswith("text/")

        def convert(atoms: list[int]) -> None:
            transfer.prop = atoms[0]
            self._convert(x.atoms[name], atom, transfer.prop)

        x.intern([f"_VITRAIL_{fd}"], convert)

    def _begin_transfer(self, fd: int) -> SelectionTransfer:
        os.set_blocking(fd, False)
        transfer = SelectionTransfer(fd, self._core.clock() + TRANSFER_SECONDS)
        self._transfers.append(transfer)
        return transfer

    def _take(self, transfer: SelectionTransfer) -> None:
        """Read the property in which the owner delivers data."""

        def taken(found: Property) -> None:
            if found.kind == self._x.atoms["INCR"]:
                transfer.incremental = True
                return
            # Tk gives pictures this type, too, by default.
            latin = transfer.text and found.kind == self._x.atoms["STRING"]
            data = found.data.decode("latin-1").encode() if latin else found.data
            transfer.data += data
            transfer.whole = not found.data or not transfer.incremental
            if len(transfer.data) > MOST_BYTES or found.more:
                self._end(transfer)

        helper, units = self._core.helper, MOST_BYTES // 4
        self._x.property(helper, transfer.prop, taken, units, delete=True)

    def _on_x_property(self, window: int, atom: int, _when: int, gone: int) -> None:
        """Move the next piece of a transfer by properties."""
        for transfer in list(self._transfers):
            owner = self._core.helper if transfer.writes else transfer.requestor
            mine = (transfer.prop, owner) == (atom, window) and transfer.incremental
            if mine and transfer.writes != bool(gone):
                transfer.until = self._core.clock() + TRANSFER_SECONDS
                (self._take if transfer.writes else self._give_piece)(transfer)

    def _wl_data_source_cancelled(self, source: WireObject) -> None:
        """Own the X11 selection of a replaced source, or cancel an X11 drag."""
        selection = self._found.get(source.data[0])
        if selection is not None and selection.source is source:
            selection.source = None
            self._own(selection)
        elif selection is None:
            self._core.tell("drag_cancelled")
        self._relay.release(source)

    # -- to X11: we own its selection while the compositor offers something

    def _wl_data_device_data_offer(self, device: WireObject, number: int) -> None:
        kind = device.interface.replace("device", "offer")
        if number < 0xFF000000 or number in self._relay.by_up:
            raise BridgeError(f"the compositor sent an offer with the id {number}")
        made = WireObject(kind, device.version, 0, number, [])
        self._relay.by_up[number] = made

    def _wl_data_offer_offer(self, offer: WireObject, mime: str) -> None:
        if len(offer.data) < 2 * MOST_TYPES:
            offer.data.append(mime)

    def _wl_data_device_selection(self, device: WireObject, offer: Maybe) -> None:
        selection = self._found[device.data]
        self.drop_offer(selection.offer)
        selection.offer = offer
        self._own(selection)

    def drop_offer(self, offer: Maybe) -> None:
        """Destroy an offer; its id is the compositor's, so it is free at once."""
        if offer is not None and not offer.dead:
            self._relay.release(offer)
            self._relay.by_up.pop(offer.up, None)

    def _own(self, selection: SharedSelection) -> None:
        if self._core.managing and selection.source is None:
            offered = selection.offer is not None
            # The compositor refuses a copy that is made without the keyboard: X11
            # programs paste it all the same, until there is another one.
            if offered or not selection.unsaid:
                selection.unsaid = False
                self._x.own(self._core.helper if offered else 0, selection.name)

    def _on_x_selection_request(self, when: int, _owner: int, *words: int) -> None:
        """Answer an X11 program with what the compositor offers."""
        requestor, atom, target, prop = words
        prop = prop or target

        def reply(*, given: bool) -> None:
            words = (when, requestor, atom, target, prop if given else 0)
            event = struct.pack("<BBH5I", SELECTION, 0, 0, *words)
            self._x.send_event(requestor, 0, event)

        self._answer(requestor, atom, target, prop, reply)

    def _answer(
        self,
        requestor: int,
        atom: int,
        target: int,
        prop: int,
        reply: Callable[..., None],
        *,
        one: bool = False,
    ) -> None:
        """Put a selection into a property of a window; ``one``: it is of several."""
        x, selection = self._x, self._found.get(self._x.name(atom))
        offer = selection.offer if selection is not None else None
        if atom == x.atoms[DRAG]:
            offer = self.drag_offer()
        # A client has one mask for a window: pieces would replace the manager's.
        # guard: a paste takes no events of the window manager
        if requestor == x.root:
            offer = None

        def known(atoms: list[int]) -> None:
            x.set_property(requestor, prop, "ATOM", atoms)
            reply(given=True)

        def named(names: list[str]) -> None:
            there = offer if offer is not None and not offer.dead else None
            mime = wanted_type(names[0], there.data) if there is not None else ""
            # guard: a list of targets has no list in it
            several = names[0] == "MULTIPLE" and not one
            if there is not None and names[0] == "TARGETS":
                x.intern([*_ALWAYS, *self.target_names(there)], known)
            elif (
                there is not None and names[0] == "TIMESTAMP" and selection is not None
            ):
                x.set_property(requestor, prop, "INTEGER", [selection.since])
                reply(given=True)
            elif there is not None and several:
                answer = partial(self._answer_several, requestor, atom, prop, reply)
                x.property(requestor, prop, answer, MOST_PAIRS * 2)
            elif not mime or len(self._transfers) >= MOST_TRANSFERS:
                reply(given=False)
            else:
                read, write = os.pipe()
                self._relay.ask(offer, "receive", mime, write)
                transfer = self._begin_transfer(read)
                transfer.requestor, transfer.prop = requestor, prop
                # TEXT is no encoding: the type says which one it is (ICCCM 2.6.2).
                text = names[0] == "TEXT"
                transfer.target = x.atoms["UTF8_STRING"] if text else target
                transfer.answer = reply

        x.names([target], named)

    def _answer_several(
        self,
        requestor: int,
        atom: int,
        prop: int,
        reply: Callable[..., None],
        found: Property,
    ) -> None:
        """Answer each pair of a target and a property in a list (ICCCM 2.6.2)."""
        pairs = list(found.words()[: MOST_PAIRS * 2])
        left = set(range(0, len(pairs) - 1, 2))

        def told(at: int, *, given: bool) -> None:
            if not given:
                pairs[at + 1] = 0
            left.discard(at)
            if not left:
                self._x.set_property(requestor, prop, "ATOM_PAIR", pairs)
                reply(given=True)

        if not left:
            reply(given=False)
        for at in sorted(left):
            target, place = pairs[at : at + 2]
            self._answer(requestor, atom, target, place, partial(told, at), one=True)

    def target_names(self, offer: WireObject) -> list[str]:
        """Return X11's names of the offered types."""
        text = wanted_type("TEXT", offer.data)
        # Programs with both protocols offer these names on Wayland, too.
        return list(dict.fromkeys([*offer.data, *(TEXTS if text else [])]))

    def _give(self, transfer: SelectionTransfer) -> None:
        """Deliver all of a paste, in pieces if it is large."""
        x = self._x
        if transfer.target == x.atoms["STRING"]:
            text = transfer.data.decode("utf-8", "replace")
            transfer.data = bytearray(text.encode("latin-1", "replace"))
        size = len(transfer.data)
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
        """Deliver the next piece; end after the last."""
        piece = bytes(transfer.data[:PIECE])
        del transfer.data[:PIECE]
        prop, target = transfer.prop, transfer.target
        self._x.set_property(transfer.requestor, prop, target, piece)
        if transfer.incremental and not piece:
            self._end(transfer)

    # PRIMARY's interfaces say the same under other names.
    _zwp_primary_selection_device_v1_data_offer = _wl_data_device_data_offer
    _zwp_primary_selection_device_v1_selection = _wl_data_device_selection
    _zwp_primary_selection_source_v1_send = _wl_data_source_send
    _zwp_primary_selection_source_v1_cancelled = _wl_data_source_cancelled
    _zwp_primary_selection_offer_v1_offer = _wl_data_offer_offer

    # -- descriptors

    def readers(self) -> list[int]:
        """Return descriptors that a paste comes from."""
        return [t.fd for t in self._transfers if not t.writes and not t.whole]

    def writers(self) -> list[int]:
        """Return descriptors that have something to take."""
        return [t.fd for t in self._transfers if t.writes and (t.data or t.whole)]

    def ready(self, ends: Sequence[object]) -> None:
        """Move bytes where it goes without waiting."""
        for transfer in [t for t in self._transfers if t.fd in ends]:
            self._move(transfer)

    def _move(self, transfer: SelectionTransfer) -> None:
        """Move bytes between a pipe and a transfer."""
        try:
            if transfer.writes:
                del transfer.data[: os.write(transfer.fd, transfer.data[: 1 << 16])]
                over = transfer.whole and not transfer.data
            else:
                data = os.read(transfer.fd, 1 << 16)
                transfer.data += data
                transfer.whole = not data
                over = len(transfer.data) > MOST_BYTES
        except BlockingIOError:
            return
        except OSError:
            over = True
        if over:
            self._end(transfer)
        elif transfer.whole and not transfer.writes:
            self._give(transfer)

    def expire(self) -> None:
        """Give up what does not move."""
        for transfer in [t for t in self._transfers if t.until < self._core.clock()]:
            self._end(transfer)

    def _end(self, transfer: SelectionTransfer) -> None:
        if transfer in self._transfers:
            self._transfers.remove(transfer)
            os.close(transfer.fd)
            transfer.answer(given=False)

    def close(self) -> None:
        """Close all descriptors."""
        for transfer in [*self._transfers]:
            self._end(transfer)

"""The guards of chords and crossing, as ``guards`` describes them.

``python -m tests.kit.clipboard_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards import Guard, main

_T = "tests/broker/clipboard/"


def _g(name: str, file: str, source: str, without: str, test: str = "") -> Guard:
    test = test or f"test_{file}"
    return Guard(name, f"broker/clipboard/{file}", source, without, f"{_T}{test}")


def _a(
    name: str, file: str, source: str, without: str, word: str, test: str = "crossing"
) -> Guard:
    """One whose attack is run against the real thing."""
    test = f"tests/attack/test_clipboard_{test}.py"
    return Guard(name, f"broker/{file}", source, without, test, word)


def _d(name: str, file: str, source: str, without: str, word: str) -> Guard:
    """One of drags from one sandbox to another."""
    return _a(name, file, source, without, word, "drag_crossing")


def _s(name: str, file: str, source: str, without: str, test: str, word: str) -> Guard:
    return Guard(name, f"broker/{file}", source, without, f"tests/{test}", word)


_WORKER, _UNIT = (
    "session/worker_clipboard.py",
    "broker/session/test_worker_clipboard.py",
)
_SELECTION = "broker/wayland/test_selection.py"


def _b(name: str, file: str, source: str, without: str, word: str) -> Guard:
    """One of the broker's side: rules, log, workers."""
    test = "tests/broker/session/test_clipboard.py"
    return Guard(name, f"broker/session/{file}", source, without, test, word)


_TOLD = """    core.hands.selected(offer)
    if isinstance(offer, HostOffer):
        shown = core.make_server_side("wl_data_offer", 3)
        core.down.data += data_offer(_device.cid, shown.cid)
        for mime in offer.mimes:
            core.down.data += offer_mime(shown.cid, mime)
"""

GUARDS = (
    _g("exact modifiers", "chords.py", "exact = held & ~(self._ignored & ~chord.mask) == chord.mask", "exact = held & chord.mask == chord.mask"),
    _g("real modifiers only", "chords.py", "((depressed | latched | locked) & REAL, group)", "(depressed | latched | locked, group)"),
    _g("one verdict for each event", "chords.py", "        if known is not None:\n            return known\n", ""),
    _g("a chord once", "chords.py", "Verdict.SWALLOW if acting else verdict", "verdict"),
    _g("releases of what was seen", "chords.py", "        return Verdict.FORWARD if seen else Verdict.SWALLOW", "        return Verdict.FORWARD"),
    _g("only modifiers on enter", "chords.py", "tuple(key for key in keys if key in drive)", "tuple(keys)"),
    _g("no focus, no chord", "chords.py", "        if not self._focused:\n            return Verdict.SWALLOW\n", ""),
    _g("modifiers forgotten with the focus", "chords.py", "        self._focused = False\n        self._state = None\n", "        self._focused = False\n"),
    _g("modifiers forgotten with the keymap", "chords.py", "self._keymap, self._digest, self._state = None, digest, None", "self._keymap, self._digest = None, digest"),
    _g("both chords on one key", "chords.py", "        if found[0].mask == found[1].mask and both:", "        if False:"),
    _g("memory of verdicts", "chords.py", "        if len(self._verdicts) > limits.CLIPBOARD_KEY_EVENTS:", "        if False:"),
    _g("a letter is itself", "keymap.py", "            if found:\n                return found\n        return frozenset()", "            found |= self._bearing(symbol, other)\n            if found:\n                return found\n        return frozenset()"),
    _g("size of a keymap", "keymap_text.py", "    if len(text) > limits.CLIPBOARD_KEYMAP_BYTES:", "    if False:"),
    _g("whose focus", "crossing.py", "        if sandbox not in self._claims:\n            return NO_FOCUS\n", ""),
    _g("two claims of the focus", "crossing.py", "        if others:\n", "        if False:\n"),
    _g("focus moved while copying", "crossing.py", "if copy is not None and not copy.drop and copy.reader != sandbox:", "if False:"),
    _g("focus moved while policy thinks", "crossing.py", "if paste is not None and not paste.drop and paste.target != sandbox:", "if False:"),
    _g("focus moved while it is cleaned", "giving.py", "        if self._cleaning is not None and self._cleaning.paste.target != sandbox:", "        if False:", "test_crossing.py"),
    _g("wiped by the next copy", "crossing.py", "        self._held = None\n        if self._paste is not None and", "        if self._paste is not None and"),
    _g("wiped by a paste", "crossing.py", "        self._held = None\n        yield from self._giving.give(", "        yield from self._giving.give("),
    _g("wiped with its source", "crossing.py", "        if self._held is not None and self._held.source == sandbox:", "        if False:"),
    _g("one copy at a time", "crossing.py", "(BUSY if self._copy else \"\")", '""'),
    _g("one paste at a time", "crossing.py", "        if not reason and (self._paste is not None or self._giving.busy):", "        if False:"),
    _g("whose answer", "crossing.py", "        if event.sandbox != copy.reader:", "        if False:"),
    _g("which answer", "crossing.py", "event.transfer != copy.transfer:\n", "False:\n"),
    _g("answers in order", "state.py", "        return self.reading is not None\n", "        return True\n", "test_crossing.py"),
    _g("which decision", "crossing.py", "paste is None or event.transfer != paste.transfer", "paste is None"),
    _g("size of a copy", "crossing.py", "sum(map(len, copy.parts)) + len(untrusted_data) <= copy.room:", "True:"),
    _g("size of a rule", "content.py", "    if size_of(allowed) > most(terms.max_bytes):", "    if False:", "test_crossing.py"),
    _g("types of a rule", "content.py", "    return fits(kind, terms.patterns) and not unclean", "    return not unclean", "test_crossing.py"),
    _g("age of a rule", "crossing.py", "            if now - held.since > ticking(terms.ttl):", "            if False:"),
    _g("images that nobody can write anew", "content.py", "    unclean = IMAGES in terms.clean and", "    unclean = False and", "test_crossing.py"),
    _g("cleaned before it is offered", "content.py", "        return IMAGES in clean\n", "        return False\n", "test_crossing.py"),
    _g("who cleans", "giving.py", "        if event.sandbox != cleaning.paste.target:", "        if False:", "test_crossing.py"),
    _g("size of what was cleaned", "giving.py", "                if size > most(cleaning.terms.max_bytes):", "                if False:", "test_crossing.py"),
    _g("a source that stalls", "crossing.py", "now >= self._copy.until:", "False:"),
    _g("a cleaner that stalls", "giving.py", "now >= self._cleaning.until:", "False:", "test_crossing.py"),
    _g("policy that does not answer", "crossing.py", "now >= self._paste.until:", "False:"),
    _g("what was copied expires", "crossing.py", "now >= self._held.until:", "False:"),
    _g("what was pasted expires", "giving.py", "if now >= o.until]", "if False]", "test_crossing.py"),
    _g("policy before the person's own is read", "crossing.py", "        yield w.AskPolicy(number, w.VIEWER, to, kinds, origin or \"\", bool(drop))", "        yield from self._read_next(copy, now)", "test_inward.py"),
    _g("the person's own only by a rule", "crossing.py", "            reason = NOTHING if event.host is None else", "            reason = \"\" if event.host is None else", "test_inward.py"),
    _g("the person's own only with the focus", "crossing.py", "        if copy.drop is not None or self.focused == copy.reader:\n", "        if True:\n", "test_inward.py"),
    _g("types of a rule for the person's own", "crossing.py", "if may_cross(pick.kind, terms)]", "]", "test_inward.py"),
    _g("size of a rule for the person's own", "state.py", "            limit = min(limit, self.into[1].max_bytes)", "            pass", "test_inward.py"),
    _g("focus moved before an export", "outward.py", "        if self._asked is not None and self._asked.held.source != sandbox:", "        if False:", "test_outward.py"),
    _g("an export only with the focus", "outward.py", "focused != asked.held.source:", "False:", "test_outward.py"),
    _g("whose export", "outward.py", "        if standing.source != event.sandbox:", "        if False:", "test_outward.py"),
    _g("origin of an export", "outward.py", "            self._marks[mark] = asked.held.source\n", "", "test_outward.py"),
    _g("origin of what has ended", "outward.py", "                self._marks[mark] = \"\"", "                pass", "test_outward.py"),
    _g("origins remembered", "outward.py", "            while len(self._marks) > limits.CLIPBOARD_MARKS:", "            while False:", "test_outward.py"),
    _g("an export expires", "outward.py", "now >= self._standing.until:", "False:", "test_outward.py"),
    _g("names of files", "types.py", "        spelling in NEVER\n        or ", "        "),
    _g("number of types", "types.py", "    if len(untrusted_types) > limits.WAYLAND_MIMES:", "    if False:"),
    _g("length of types", "types.py", "        if len(name.encode(\"utf-8\", \"replace\")) > limits.WAYLAND_MIME_BYTES:", "        if False:"),
    _g("a picture's sums", "picture.py", "        if zlib.crc32(content, zlib.crc32(kind)) != told:", "        if False:"),
    _g("a picture's pixels", "picture.py", "    if head.height * (head.row + 1) > limits.CLIPBOARD_PIXEL_BYTES:", "    if False:"),
    _g("a picture's sides", "picture.py", "    if not (1 <= width <= most and 1 <= height <= most):", "    if False:"),
    _g("pixels beyond the end", "picture.py", "    if more or not pull.eof or pull.unused_data:", "    if False:"),
    _g("critical parts of a picture", "picture.py", "        elif kind != b\"IEND\" and not kind[0] & 0x20:", "        elif False:"),
    _g("pixels beyond the palette", "picture.py", ".ljust(\n            3 << parts.head.depth, b\"\\0\"\n        )", ""),
    _g("hidden characters", "cleaning.py", "    return unicodedata.category(char) not in _REMOVED", "    return True"),
    _a("serials of a selection", "wayland/selection.py", "not core.serials.knows(serial) or not _may_select(core)", "not _may_select(core)", "delivered_serial"),
    _a("selections need the focus", "wayland/selection.py", "not core.serials.knows(serial) or not _may_select(core)", "not core.serials.knows(serial)", "background"),
    _a("the person's selection is not told", "wayland/selection.py", "    core.hands.selected(offer)\n", _TOLD, "persons_own"),
    _a("number of a client's types", "wayland/selection.py", "len(source.mimes) >= limits.WAYLAND_MIMES", "False", "ten_thousand"),
    _a("size of a read", "session/worker_clipboard.py", "            while size <= order.max_bytes:", "            while True:", "endless"),
    _a("deadline of a read", "session/worker_clipboard.py", "with scope, trio.move_on_after(limits.CLIPBOARD_COPY_SECONDS):", "with scope:", "never_writes"),
    _a("the same selection to the end", "session/worker_clipboard.py", "        if not origin.valid():\n            return 0, \"it ended", "        if False:\n            return 0, \"it ended", "changes_while"),
    _a("alive at the end", "session/worker_clipboard.py", "        if not origin.valid():\n            return 0, \"it ended", "        if False:\n            return 0, \"it ended", "dies_while"),
    _a("number of serves", "session/worker_serving.py", "self._now >= limits.CLIPBOARD_SERVES", "False", "never_reads"),
    _a("one press of thirty keyboards", "clipboard/chords.py", "Verdict.SWALLOW if acting else verdict", "verdict", "nobody_but"),
    _a("focus taken while policy thinks", "clipboard/crossing.py", "if paste is not None and not paste.drop and paste.target != sandbox:", "if False:", "takes_the_focus"),
    _a("two workers and one focus", "clipboard/crossing.py", "        if others:\n", "        if False:\n", "two_workers"),
    _a("drags of others are not told", "wayland/drag.py", "        if source is None:\n            # From", "        if source is None:\n            from broker.wayland.selection import Source as S\n            source = S(\"wl_data_source\", 3)\n        if False:\n            # From", "another_sandbox", "drag"),
    _a("a drag has a type of ours", "wayland/drag.py", "    core.up.data += _source_offer(sid, source.drag)\n", "    core.up.data += _source_offer(sid, source.mimes[0])\n", "own_program", "drag"),
    _a("a drag's type names nobody", "wayland/sandbox.py", "hashlib.blake2b(word, digest_size=16).hexdigest().encode()", "self.name.encode()", "own_program", "drag"),
    _a("a pipe that its client makes blocking", "session/worker_serving.py", "flags=os.SPLICE_F_NONBLOCK", "flags=0", "stays_blocking"),
    _d("a drop that both have seen", "clipboard/drags.py", "if over.mark and (drag is None or not drag.performed):", "if False:", "claims"),
    _d("a drop inside of its sandbox", "wayland/drag.py", "            if source.accepted is None:", "            if True:", "inside_of"),
    _d("files that are dragged", "clipboard/crossing.py", "        if copy.drop is not None and files:", "        if False:", "dragged_file"),
    _d("files that are dragged out", "session/worker_drags.py", "not self._cross or names_files(types):", "not self._cross:", "dragged_out"),
    _g("files that are dragged out meanwhile", "crossing.py", "        if copy.drop is not None and files:", "        if copy.drop is not None and files and not copy.drop.wanted:", "test_drags.py"),
    _g("a drop that two claim", "drags.py", "        if len(claims) < 2:", "        if True:", "test_drags.py"),
    _g("a drop that another claims late", "crossing.py", "if self._drags.also_claims(event, self._dropping):", "if False:", "test_drags.py"),
    _g("a drop that nobody knows is let go", "drags.py", "            return [w.EndDrag(event.sandbox, event.number)], None\n        if over.number", "            return [], None\n        if over.number", "test_drags.py"),
    _g("one drop of each drag", "drags.py", "        if drag is not None and drag.settled:", "        if False:", "test_drags.py"),
    _g("a drag that is late to be elsewhere", "drags.py", "        self._overs.pop(event.sandbox, None)\n        source =", "        self._overs.clear()\n        source =", "test_drags.py"),
    _g("a drop that the next drag overtakes", "drags.py", "        if before is not None and before.dropped_until is not None:", "        if False:", "test_drags.py"),
    _g("a drag without a mark is any of the person's", "drags.py", "if drop is None or not drop.mark or", "if drop is None or", "test_drags.py"),
    _g("a claim by who has the drop", "drags.py", "drop.target in {w.VIEWER, event.sandbox}:", "drop.target == w.VIEWER:", "test_drags.py"),
    _g("what goes out is no drop", "drags.py", "drop.target in {w.VIEWER, event.sandbox}:", "drop.target == event.sandbox:", "test_drags.py"),
    _g("which drag is claimed", "drags.py", "(over.number, over.mark) == (event.number, drop.mark)", "over.number == event.number", "test_drags.py"),
    _g("spellings of names of files", "types.py", 'spelling.partition(";")[0] in NEVER', "spelling in NEVER"),
    _g("drags remembered", "drags.py", "        for mark in mine[: -limits.CLIPBOARD_DRAGS]:", "        for mark in ():", "test_drags.py"),
    _d("policy before a drop is given", "clipboard/crossing.py", "        self._paste, asks = drags.ask(drop, items, self._number(), now)\n        yield asks\n", "        made, _ = drags.ask(drop, items, self._number(), now)\n        yield from self._drops.give(made, w.PasteTerms(), items, now)\n", "denies_is_shown"),
    _d("marks are no types", "clipboard/types.py", " or spelling.startswith(OURS)", "", "makes_up"),
    _d("a dragged source to the end", "session/worker_drags.py", "            lambda: self._sandbox.drags.get(key) is source and not source.dead,", "            lambda: True,", "goes_while"),
    _d("policy before the person's own drag is read", "clipboard/crossing.py", "        yield w.AskPolicy(number, w.VIEWER, to, kinds, origin or \"\", bool(drop))", "        yield from self._read_next(copy, now)", "denies_is_not_read"),
    _d("types that go out", "session/worker_drags.py", "return [m for m in source.mimes if _kind(m) in self._outward]", "return source.mimes", "goes_out_by"),
    _d("what goes out is decided when it goes", "clipboard/drags.py", "crossing(items, terms) if terms else ((), event.reason)", "crossing(items, terms or w.PasteTerms())", "once_more"),
    _a("a dragged picture has a frame", "wayland/drag_start.py", "        icon.icon.root.sid if", "        icon.sid if", "dragged_has", "drag"),
    _s("what was taken back is not dropped", "wayland/foreign.py", "self.offer is None or self.device.dead", "self.device.dead", _SELECTION, "late_word"),
    _s("a device that was released", "wayland/foreign.py", "self.offer is None or self.device.dead", "self.offer is None", _SELECTION, "was_released"),
    _s("a window speaks for itself", "wayland/drag.py", "                offer.source.takers.pop(offer, None)", "                offer.source.takers.clear()", _SELECTION, "speaks_for_itself"),
    _s("a window takes for itself", "wayland/drag.py", "        source.takers.pop(offer, None)\n        core.up", "        source.takers.clear()\n        core.up", _SELECTION, "speaks_for_itself"),
    _s("the last word of a drag that went on", "wayland/drag.py", "offer.left or not core.serials", "not core.serials", _SELECTION, "went_on"),
    _s("a focus that has gone is told", _WORKER, "            self._forget_one()\n", "            self._waiting.popleft()\n", _UNIT, "without_end"),
    _s("an end for who asked and was not told of", _WORKER, "        self._drags.untold(untold)\n", "", "broker/session/test_worker_drags.py", "kept_waiting or room_to_tell"),
    _b("a drag over its own windows", "clipboard.py", "(source is not None and name != lease.sandbox)", "source is not None", "told_of_once"),
    _b("drags that nobody knows", "clipboard.py", "        self._later.cancel()  # there is one pointer\n", "", "wait_one_at_a_time"),
    _b("an end for who asks", "clipboard.py", "                if isinstance(action, w.Serve):", "                if False:", "hears_its_end"),
    _b("a line for each type of a question", "clipboard_terms.py", '*(("type", kind) for kind in kinds)', '("type", ", ".join(kinds))', "hides_no_other"),
    _s("no second start of one that was heard", "wayland/drag_start.py", "    core.drag.asked = None\n", "    return\n", _SELECTION, "has_heard"),
    _s("one question about a start", "wayland/drag_start.py", "if it.asked is not None and not it.waiting:", "if it.asked is not None:", _SELECTION, "passed_over"),
    _s("an export needs its press", _WORKER, "press.number != order.press or", "", _UNIT, "right_of_a_press"),
    _s("one export for each press", _WORKER, "        self._copy = None  # one", "        # one", _UNIT, "right_of_a_press"),
    _s("the person's own needs the focus", _WORKER, "if self._paste is None or not self._paste.core.focused:", "if self._paste is None:", _UNIT, "without_the_focus"),
    _s("the person's own told anew", _WORKER, "set(now.mimes) != set(origin.mimes):", "False:", _UNIT, "told_anew"),
    _s("one that takes nothing", "session/worker_serving.py", "    while start < end:\n        with trio.fail_after(limits.CLIPBOARD_SERVE_SECONDS):", "    while start < end:\n        with trio.CancelScope():", _UNIT, "takes_nothing"),
    _s("what waits to be told", _WORKER, "        if len(self._waiting) >= limits.CLIPBOARD_EVENTS:", "        if False:", _UNIT, "waits_to_be_told"),
    _s("a focus that jumps", _WORKER, "            self._waiting.pop()  # back where it was\n            return\n", "            pass\n", _UNIT, "jumps"),
    _s("content is sealed", "session/sealed.py", "    if fcntl.fcntl(untrusted_fd, fcntl.F_GET_SEALS) & SEALS != SEALS:", "    if False:", "broker/session/test_sealed.py", ""),
    _s("content is as large as said", "session/sealed.py", "    if os.fstat(untrusted_fd).st_size != size:", "    if False:", "broker/session/test_sealed.py", ""),
    _s("content is in memory", "session/sealed.py", "    if not on_tmpfs(untrusted_fd):", "    if False:", "broker/session/test_sealed.py", ""),
    _s("content that was asked for", "session/worker.py", "len(untrusted_fds) != 1 or message.size > most", "len(untrusted_fds) != 1", "integration/test_worker.py", "content_that_is_not"),
    _b("a paste goes where the keyboard is", "clipboard_terms.py", "        settled=True,\n", "", "target_only or conditions"),
    _b("records are stricter than rules", "clipboard_terms.py", "        if not all(fits(kind, types) for types in said or [DEFAULT_PATTERNS]):\n            return None\n", "", "either_side or conditions"),
    _b("sizes of records", "clipboard_terms.py", "return min([min(said) if unknown else max(said), *of_records])", "return min(said) if unknown else max(said)", "either_side"),
    _b("one question", "clipboard_terms.py", "            if one not in asking or one.answer.rule is asking[0].answer.rule\n", "", "about_the_first"),
    _b("rules for the person's own", "clipboard_terms.py", "return _widest(rules, self._speaking(lease)) if rules else None", "return _widest(rules, self._speaking(lease))", "nobody_looks"),
    _b("origin of what comes in", "clipboard_terms.py", "        if origin is None:\n            return terms\n", "        return terms\n", "in_again"),
    _b("recorded before it is offered", "clipboard_telling.py", "await self._log.require(self._pasted(record))", "await self._log.note(self._pasted(record))", "cannot_be_recorded"),
    _b("whose worker may end a lease", "clipboard.py", "if party is not None and party.lease == lease:", "if party is not None:", "old_ones_end"),
    _b("words after the end", "clipboard.py", "        if self._parties.get(party.lease.sandbox) is party:\n", "        if True:\n", "source_ends"),
    _b("chords in a row", "clipboard.py", "                if self._pace.take(trio.current_time()):\n", "                if True:\n", "so_many_chords"),
    _b("a worker that lies is ended", "clipboard.py", "                    self.start(party.blame, reason)\n", "                    pass\n", "nobody_asked"),
    _b("a worker that takes no orders", "clipboard.py", "            self._clipboard.start(self.blame, \"it takes no orders for the clipboard\")", "            pass", "takes_no_orders"),
    _b("rules that change", "clipboard.py", "                await self._post(w.Revoked(target, transfer, why))", "                pass", "taken_away"),
    _b("questions nobody waits for", "clipboard.py", "            self._asking.pop(transfer).cancel()", "            self._asking.pop(transfer)", "question_ends"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

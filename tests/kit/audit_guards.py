"""The guards of the audit log, as ``guards`` describes them.

``python -m tests.kit.audit_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards import Guard, main

_TAIL = "tests/attack/test_audit_tail.py"


def _t(name: str, file: str, source: str, without: str, word: str = "") -> Guard:
    return Guard(name, f"broker/audit/{file}", source, without, _TAIL, word)


_BUDGETS = "tests/attack/test_budgets.py"


def _b(name: str, file: str, source: str, without: str, word: str) -> Guard:
    return Guard(name, f"broker/{file}", source, without, _BUDGETS, word)


GUARDS = (
    _t("a head is no checkpoint, at the start", "seal.py", "    return note.checkpoint.head or key.newest is None\n", "    return True\n", "any_note or first_note"),
    _t("a head is no checkpoint, in verify", "verify.py", "            if all(says_end(head, key) for key in current):\n                return\n", "            return\n", "any_note or first_note"),
    _t("the key knows the newest size, at the start", "seal.py", "    if tree.size < (seal.key.newest or 0):\n", "    if False:\n", "older_copy and killed"),
    _t("the key knows the newest size, in verify", "verify.py", "    if report.size < had:\n", "    if False:\n", "older_copy and killed"),
    _t("the newest size follows each commit", "seal.py", "        self._file.record_newest(self._head)\n", "", "older_copy and killed"),
    _t("a new key at each start", "seal.py", "        seal.evolve(tree)\n", "        pass\n", "own_key"),
    _b("refusals have a budget for each sandbox", "audit/refusals.py", '    return event.sandbox or f"<{event.kind} {event.peer}>"\n', '    return ""\n', "others_their_names"),
    _b("counted refusals keep their sandbox", "audit/refusals.py", "        whose = event if owner is not None else schema.StreamRefused()\n", "        whose = schema.StreamRefused()\n", "others_their_names"),
    _b("a share of the log", "audit/shares.py", "        wait = share.early(now)\n", "        wait = 0.0\n", "roll_the_log_over"),
    _b("all shares together", "audit/shares.py", "            wait = self._all.early(now)\n", "            pass\n", "together_are_bounded"),
    _b("some of the log for each", "audit/shares.py", "        if not wait and share.early(now, floor) > 0:\n", "        if not wait:\n", "others_go_on"),
    _b("a decision asks the share", "session/deciding.py", "            self._log.check_share(request.lease.sandbox)\n", "            pass\n", "used_up_share"),
    Guard("a door asks the share", "broker/session/doors.py", "        self.log.check_share(self.lease.sandbox)\n", "", "tests/broker/session/test_doors.py", "share_of_the_log"),
    Guard("the microphone asks the share", "broker/session/guest_sound.py", "            self._log.check_share(self._lease.sandbox)\n", "            pass\n", "tests/broker/session/test_guest_sound.py", "fills_no_log"),
    _b("notifications have a budget for each sandbox", "session/desktop.py", "        if not own.take(now) or not self._all.take(now):\n", "        if not self._all.take(now):\n", "leave_the_others_theirs"),
    _b("the person's own come first", "session/desktop.py", "        return (self._persons or self._others).popleft()\n", "        return (self._others or self._persons).popleft()\n", "hide_no_crossing"),
    _b("the person's own have no budget", "session/clipboard_telling.py", "        return \"\"\n    asked = ", "        pass\n    asked = ", "hide_no_crossing"),
    _b("sound connections of all", "session/sound_places.py", "        self._server.check(self._taken)\n", "", "leave_places"),
    _b("sound connections for those with few", "session/sound_places.py", "            most -= limits.PULSE_CONNECTIONS_KEPT\n", "            pass\n", "leave_places"),
    _b("once is one", "prompt/queue.py", "        if answer.allow and answer.keep is Keep.ONCE:\n", "        if False:\n", "one_once"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

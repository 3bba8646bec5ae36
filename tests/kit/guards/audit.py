"""The guards of the audit log, as ``guards`` describes them.

``python -m tests.kit.guards.audit [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("a head is no checkpoint, at the start", "broker/audit/proof/seal.py", "    return note.checkpoint.head or key.newest is None\n", "    return True\n", "tests/attack/test_audit_tail.py", "any_note or first_note"),
    Guard("a head is no checkpoint, in verify", "broker/audit/proof/verify.py", "            if all(says_end(head, key) for key in current):\n                return\n", "            return\n", "tests/attack/test_audit_tail.py", "any_note or first_note"),
    Guard("the key knows the newest size, at the start", "broker/audit/proof/seal.py", "    if tree.size < (seal.key.newest or 0):\n", "    if False:\n", "tests/attack/test_audit_tail.py", "older_copy and killed"),
    Guard("the key knows the newest size, in verify", "broker/audit/proof/verify.py", "    if report.size < had:\n", "    if False:\n", "tests/attack/test_audit_tail.py", "older_copy and killed"),
    Guard("the newest size follows each commit", "broker/audit/proof/seal.py", "        self._file.record_newest(self._head)\n", "", "tests/attack/test_audit_tail.py", "older_copy and killed"),
    Guard("a new key at each start", "broker/audit/proof/seal.py", "        seal.evolve(tree)\n", "        pass\n", "tests/attack/test_audit_tail.py", "own_key"),
    Guard("refusals have a budget for each sandbox", "broker/audit/refusals.py", "    return event.sandbox or f\"<{event.kind} {event.peer}>\"\n", "    return \"\"\n", "tests/attack/test_budgets.py", "others_their_names"),
    Guard("counted refusals keep their sandbox", "broker/audit/refusals.py", "        whose = event if owner is not None else schema.StreamRefused()\n", "        whose = schema.StreamRefused()\n", "tests/attack/test_budgets.py", "others_their_names"),
    Guard("a share of the log", "broker/audit/shares.py", "        wait = share.early(now)\n", "        wait = 0.0\n", "tests/attack/test_budgets.py", "roll_the_log_over"),
    Guard("all shares together", "broker/audit/shares.py", "            wait = self._all.early(now)\n", "            pass\n", "tests/attack/test_budgets.py", "together_are_bounded"),
    Guard("some of the log for each", "broker/audit/shares.py", "        if not wait and share.early(now, floor) > 0:\n", "        if not wait:\n", "tests/attack/test_budgets.py", "others_go_on"),
    Guard("a decision asks the share", "broker/authz/decider.py", "            self._log.check_share(request.lease.sandbox)\n", "            pass\n", "tests/attack/test_budgets.py", "used_up_share"),
    Guard("a door asks the share", "broker/host/admission.py", "        self.log.check_share(self.lease.sandbox)\n", "", "tests/broker/host/test_admission.py", "share_of_the_log"),
    Guard("the microphone asks the share", "broker/viewer/sound/sandbox_sound.py", "            self._log.check_share(self._lease.sandbox)\n", "            pass\n", "tests/broker/viewer/sound/test_sandbox_sound.py", "fills_no_log"),
    Guard("notifications have a budget for each sandbox", "broker/viewer/desktop.py", "        if not own.take(now) or not self._all.take(now):\n", "        if not self._all.take(now):\n", "tests/attack/test_budgets.py", "leave_the_others_theirs"),
    Guard("the person's own come first", "broker/viewer/desktop.py", "        return (self._persons or self._others).popleft()\n", "        return (self._others or self._persons).popleft()\n", "tests/attack/test_budgets.py", "hide_no_crossing"),
    Guard("the person's own have no budget", "broker/viewer/clipboard/outcomes.py", "        return \"\"\n    asked = ", "        pass\n    asked = ", "tests/attack/test_budgets.py", "hide_no_crossing"),
    Guard("sound connections of all", "broker/core/connection_quota.py", "        self._server.check(self._taken)\n", "", "tests/attack/test_budgets.py", "leave_places"),
    Guard("sound connections for those with few", "broker/core/connection_quota.py", "            most -= limits.PULSE_CONNECTIONS_KEPT\n", "            pass\n", "tests/attack/test_budgets.py", "leave_places"),
    Guard("once is one", "broker/prompt/queue.py", "        if answer.allow and answer.keep is Keep.ONCE:\n", "        if False:\n", "tests/attack/test_budgets.py", "one_once"),
    Guard("a witness asks for a signature", "broker/audit/proof/witness.py", "    if not any(note.signed_by(key) for key in signers):\n", "    if False:\n", "tests/attack/test_audit_witness.py", "made_up"),
    Guard("a witness asks for a proof", "broker/audit/proof/witness.py", "    if offer.since != old.size or not offer.proof:\n        return Fate.UNPROVED\n", "    if offer.since != old.size or not offer.proof:\n        return Fate.KEPT\n", "tests/attack/test_audit_witness.py", "real_key"),
    Guard("a witness follows the keys", "broker/audit/proof/witness.py", "    if not good or not note.signed_by(signer):\n", "    if False:\n", "tests/attack/test_audit_witness.py", "do_not_follow"),
    Guard("a peer has few logs", "broker/audit/proof/witness.py", "    if origin not in logs and len(logs) >= limits.AUDIT_WITNESS_LOGS:\n", "    if False:\n", "tests/attack/test_audit_witness.py", "without_end"),
    Guard("old notes are proved", "broker/audit/proof/witness.py", "        if any(note.signed_by(key) for key in signers):\n            _insert", "        if True:\n            _insert", "tests/attack/test_audit_witness.py", "kept_before"),
    Guard("what is never proved is a conflict", "broker/services/checkpoints.py", "            reason = self._late(epoch, answer)\n", "            pass\n", "tests/attack/test_audit_witness.py", "real_key"),
    Guard("hashes that were to stay", "broker/audit/proof/verify.py", "            elif self._pruned[block] is None and not _hashes_may_go(first, said):\n", "            elif False:\n", "tests/attack/test_audit_removal.py", "to_stay"),
    Guard("what was not compared is not counted", "broker/audit/proof/verify.py", "    _tell_uncompared(len(against), report)\n", "    report.against = len(against)\n", "tests/attack/test_audit_removal.py", "not_counted"),
    Guard("what a witness holds stays provable", "broker/audit/retention.py", "    return {size >> STEP for (size,) in rows if size % BLOCK}", "    return set()", "tests/attack/test_audit_removal.py", "provable"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

"""The guards of decisions and questions, as ``guards`` describes them.

``python -m tests.kit.guards.rules [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("the record is asked", "policy/verdict.py", "    record = record_gate.record_allows(records, request)\n    if not record.allowed:\n        return Verdict(record, Answer(\"deny\", record.reason, notify=True))\n    return Verdict(record, record_gate.stricter(records, request, rules()))", "    return Verdict(None, record_gate.stricter(records, request, rules()))", "tests/broker/authz/test_decider.py", "stricter or valid_record"),
    Guard("limits are held", "broker/authz/decider.py", "        if beyond:\n", "        if False:\n", "tests/broker/authz/test_decider.py", "rate or gesture or size"),
    Guard("the answer is checked", "broker/authz/decider.py", "    return unfit(question, said)\n", "    return \"\"\n", "tests/broker/authz/test_decider.py", "not_offered"),
    Guard("rules asked again after the answer", "broker/authz/decider.py", 'chosen = said.target in answer.targets or answer.verdict == "allow"', "chosen = True", "tests/broker/authz/test_decider.py", "less_is_offered"),
    Guard("decided again before the effect", "broker/authz/decider.py", "            if reason:\n                raise await self._no(request, None, reason, where)\n", "", "tests/broker/authz/test_decider.py", "between_decision_and_effect"),
    Guard("recorded before the effect", "broker/authz/decider.py", "            permit = self._permit(request, answer)\n            await self._log.require(self._event(request, answer, _ALLOW))\n", "            permit = self._permit(request, answer)\n            await self._log.note(self._event(request, answer, _ALLOW))\n", "tests/broker/authz/test_decider.py", "cannot_be_recorded"),
    Guard("a swap cuts", "broker/authz/decider.py", "                permit.end(reason, where)\n                ended.append", "                ended.append", "tests/broker/authz/test_decider.py", "denied_now_is_cut"),
    Guard("a swap asks", "broker/authz/decider.py", "            elif answer is not None and not self._holds_still(permit, answer):\n                asked.append((permit, answer))\n", "", "tests/broker/authz/test_decider.py", "asked_about_now"),
    Guard("grants looked at after a swap", "broker/authz/decider.py", "            await self._look_at_grant(grant)\n", "            pass\n", "tests/broker/authz/test_decider.py", "no_rule_would_give"),
    Guard("a revoked grant cuts", "broker/authz/decider.py", "            for permit in [p for p in self._live if p.grant == grant.id]:", "            for permit in []:", "tests/broker/authz/test_decider.py", "revoking_ends"),
    Guard("grants end with the lease", "broker/authz/decider.py", '        await self.revoke(self.grants.of_lease(lease), "the sandbox stopped")', "        del lease", "tests/broker/authz/test_decider.py", "until_it_stops"),
    Guard("keep as the rule permits", "broker/authz/decider.py", "if said.keep is Keep.ONCE or said.keep not in keeps(answer.limits):", "if said.keep is Keep.ONCE:", "tests/broker/authz/test_decider.py", "less_is_offered"),
    Guard("time to live", "broker/authz/decider.py", "scope=trio.CancelScope(deadline=until)", "scope=trio.CancelScope()", "tests/broker/authz/test_decider.py", "ten_minutes"),
    Guard("targets are no crowd", "broker/authz/decider.py", "        if len(question.targets) > limits.QUESTION_TARGETS:", "        if False:", "tests/broker/authz/test_decider.py", "too_many_targets"),
    Guard("live permits bounded", "broker/authz/decider.py", "        if len(self._live) >= limits.LIVE_PERMITS:", "        if False:", "tests/broker/authz/test_decider.py", "as_many_permissions"),
    Guard("a flood is refused unrecorded", "broker/authz/decider.py", "            reason = number.reason\n", "            await self._log.note(schema.QuestionAsked(**subject(request), question=0))\n            reason = number.reason\n", "tests/attack/test_questions.py", "flood_of_questions"),
    Guard("max-size needs somebody who counts", "broker/authz/rate_limits.py", "        if held.max_size is not None and not request.counts_bytes:", "        if False:", "tests/broker/authz/test_decider.py", "size"),
    Guard("a broken set is not taken", "broker/authz/rules.py", "        if read.problems and good:\n            return self.now._replace(why=read.problems[0])\n        return choose(read, saved)", "        return InForce(read, None, kept=False)", "tests/broker/authz/test_rules.py"),
    Guard("rules recorded before they hold", "broker/authz/rules.py", "            await self._log.require(_loaded(chosen))\n", "            await self._log.note(_loaded(chosen))\n", "tests/broker/authz/test_rules.py", "cannot_be_recorded"),
    Guard("a kept set that was changed", "policy/rules/last_good.py", "    if digest_of(rules) != digest:", "    if False:", "tests/broker/authz/test_rules.py", "tampered"),
    Guard("focus for a second", "broker/prompt/guard.py", "        if self._since is not None and now - self._since >= self._hold:", "        if self._since is not None:", "tests/broker/prompt/test_guard.py"),
    Guard("touched begins anew", "broker/prompt/guard.py", "        self._held.add(code)\n        if not armed:\n            self._restart(now)\n", "        self._held.add(code)\n", "tests/broker/prompt/test_guard.py"),
    Guard("held keys are no rest", "broker/prompt/guard.py", "self._visible and self._focused and not self._held", "self._visible and self._focused", "tests/broker/prompt/test_guard.py"),
    Guard("seen before it counts", "broker/prompt/guard.py", "self._visible and self._focused and not self._held", "self._focused and not self._held", "tests/broker/prompt/test_guard.py"),
    Guard("Enter means nothing", "broker/prompt/dialog.py", '        elif name not in {"Return", "KP_Enter", "space", "Tab"} and text:', "        elif name == \"Return\":\n            return self._yes()\n        elif text:", "tests/broker/prompt/test_dialog.py"),
    Guard("the word alone", "broker/prompt/dialog.py", "settled = now - self._typed_at >= limits.PROMPT_WORD_SECONDS", "settled = True", "tests/broker/prompt/test_dialog.py"),
    Guard("pressed where it is let go", "broker/prompt/dialog.py", "pressed is None or pressed != self._button()", "pressed is None", "tests/broker/prompt/test_dialog.py"),
    Guard("a press while inert", "broker/prompt/dialog.py", "self.pressed = self._button() if armed else None", "self.pressed = self._button()", "tests/broker/prompt/test_dialog.py"),
    Guard("what was not offered", "broker/prompt/queue.py", "        reason = unfit(entry.question, answer)\n", "        reason = \"\"\n", "tests/broker/prompt/test_queue.py"),
    Guard("questions of one sandbox", "broker/prompt/queue.py", "        if len(mine) >= limits.QUESTIONS_PER_SANDBOX:", "        if False:", "tests/broker/prompt/test_queue.py"),
    Guard("questions in all", "broker/prompt/queue.py", "        if len(self._entries) >= limits.QUESTIONS_WAITING:", "        if False:", "tests/broker/prompt/test_queue.py"),
    Guard("how often", "broker/prompt/queue.py", "        return self.left >= 1\n", "        return True\n", "tests/broker/prompt/test_queue.py"),
    Guard("the same again", "broker/prompt/queue.py", "        if question in self._refused:\n            return AGAIN\n", "", "tests/broker/prompt/test_queue.py"),
    Guard("fair turns", "broker/prompt/queue.py", "key=lambda e: (self._turn(e), e.id)", "key=lambda e: e.id", "tests/broker/prompt/test_queue.py"),
    Guard("shown after it is recorded", "broker/prompt/queue.py", "[entry for entry in self._entries.values() if entry.ready]", "list(self._entries.values())", "tests/broker/prompt/test_queue.py"),
    Guard("no answer in time", "broker/prompt/queue.py", "[entry for entry in self._entries.values() if entry.deadline <= now]", "[]", "tests/broker/prompt/test_queue.py"),
    Guard("look-alikes", "broker/prompt/question.py", 'char if char.isascii() else f"\\\\u{ord(char):04x}"', "char", "tests/broker/prompt/test_words.py"),
    Guard("short words", "broker/prompt/question.py", 'return plain if len(plain) <= most else f"{plain[: most - 3]}..."', "return plain", "tests/broker/prompt/test_words.py"),
    Guard("the phrase is a secret", "broker/prompt/phrase.py", "            if info.st_mode & 0o077 or info.st_uid != os.geteuid():", "            if False:", "tests/broker/prompt/test_words.py"),
    Guard("a death answers no", "broker/authz/prompts.py", "        self._settle(self._queue.fail_all(_DIED))\n", "", "tests/integration/test_asking.py", "agent_that_is_killed"),
    Guard("brokerctl answers what was offered", "broker/authz/prompts.py", "        if wrong:\n", "        if False:\n", "tests/integration/test_asking.py", "without_a_compositor"),
    Guard("gestures of this sandbox", "broker/authz/rate_limits.py", "        last = self._acted.get(request.lease.id)\n", "        last = max(self._acted.values(), default=None)\n", "tests/broker/authz/test_decider.py", "gesture"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

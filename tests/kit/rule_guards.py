"""The guards of decisions and questions, as ``guards`` describes them.

``python -m tests.kit.rule_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards import Guard, main

_D, _P = "tests/broker/session/test_deciding.py", "tests/broker/prompt/"
_R = "tests/broker/session/test_rules.py"


def _d(name: str, source: str, without: str, word: str, test: str = _D) -> Guard:
    return Guard(name, "broker/session/deciding.py", source, without, test, word)


def _p(name: str, file: str, source: str, without: str, test: str) -> Guard:
    return Guard(name, f"broker/prompt/{file}", source, without, f"{_P}{test}")


GUARDS = (
    _d("the record is asked", "        if not stands.allowed:\n            raise await self._no(request, None, stands.reason, stands.where)\n        answer = self._judge.verdict(request)", "        answer = self._judge.verdict(request)", "stricter or valid_record"),
    _d("limits are held", "        if beyond:\n", "        if False:\n", "rate or gesture or size"),
    _d("the answer is checked", "    return unfit(question, said)\n", '    return ""\n', "not_offered"),
    _d("rules asked again after the answer", 'chosen = said.target in answer.targets or answer.verdict == "allow"', "chosen = True", "less_is_offered"),
    _d("decided again before the effect", "            if reason:\n                raise await self._no(request, None, reason, where)\n", "", "between_decision_and_effect"),
    _d("recorded before the effect", "            permit = self._permit(request, answer)\n            await self._log.require(self._event(request, answer, _ALLOW))\n", "            permit = self._permit(request, answer)\n            await self._log.note(self._event(request, answer, _ALLOW))\n", "cannot_be_recorded"),
    _d("a swap cuts", "                permit.end(reason, where)\n                ended.append", "                ended.append", "denied_now_is_cut"),
    _d("a swap asks", "            elif answer is not None and not self._holds_still(permit, answer):\n                asked.append((permit, answer))\n", "", "asked_about_now"),
    _d("grants looked at after a swap", "            await self._look_at_grant(grant)\n", "            pass\n", "no_rule_would_give"),
    _d("a revoked grant cuts", "            for permit in [p for p in self._live if p.grant == grant.id]:", "            for permit in []:", "revoking_ends"),
    _d("grants end with the lease", '        await self.revoke(self.grants.of_lease(lease), "the sandbox stopped")', "        del lease", "until_it_stops"),
    _d("keep as the rule permits", "if said.keep is Keep.ONCE or said.keep not in keeps(answer.limits):", "if said.keep is Keep.ONCE:", "less_is_offered"),
    _d("time to live", "scope=trio.CancelScope(deadline=until)", "scope=trio.CancelScope()", "ten_minutes"),
    _d("targets are no crowd", "        if len(question.targets) > limits.QUESTION_TARGETS:", "        if False:", "too_many_targets"),
    _d("live permits bounded", "        if len(self._live) >= limits.LIVE_PERMITS:", "        if False:", "as_many_permissions"),
    _d("a flood is refused unrecorded", "            reason = number.reason\n", "            await self._log.note(schema.QuestionAsked(**subject(request), question=0))\n            reason = number.reason\n", "flood_of_questions", "tests/attack/test_questions.py"),
    Guard("max-size needs somebody who counts", "broker/session/meters.py", "        if held.max_size is not None and not request.counts_bytes:", "        if False:", _D, "size"),
    Guard("a broken set is not taken", "broker/session/rules.py", "        if read.problems and good:\n            return self.now._replace(why=read.problems[0])\n        return choose(read, saved)", "        return InForce(read, None, kept=False)", _R),
    Guard("rules recorded before they hold", "broker/session/rules.py", "            await self._log.require(_loaded(chosen))\n", "            await self._log.note(_loaded(chosen))\n", _R, "cannot_be_recorded"),
    Guard("a kept set that was changed", "policy/keep.py", "    if digest_of(rules) != digest:", "    if False:", _R, "tampered"),
    _p("focus for a second", "guard.py", "        if self._since is not None and now - self._since >= self._hold:", "        if self._since is not None:", "test_guard.py"),
    _p("touched begins anew", "guard.py", "        self._held.add(code)\n        if not armed:\n            self._restart(now)\n", "        self._held.add(code)\n", "test_guard.py"),
    _p("held keys are no rest", "guard.py", "self._visible and self._focused and not self._held", "self._visible and self._focused", "test_guard.py"),
    _p("seen before it counts", "guard.py", "self._visible and self._focused and not self._held", "self._focused and not self._held", "test_guard.py"),
    _p("Enter means nothing", "dialog.py", '        elif name not in {"Return", "KP_Enter", "space", "Tab"} and text:', '        elif name == "Return":\n            return self._yes()\n        elif text:', "test_dialog.py"),
    _p("the word alone", "dialog.py", "settled = now - self._typed_at >= limits.PROMPT_WORD_SECONDS", "settled = True", "test_dialog.py"),
    _p("pressed where it is let go", "dialog.py", "pressed is None or pressed != self._button()", "pressed is None", "test_dialog.py"),
    _p("a press while inert", "dialog.py", "self.pressed = self._button() if armed else None", "self.pressed = self._button()", "test_dialog.py"),
    _p("what was not offered", "queue.py", "        reason = unfit(entry.question, answer)\n", '        reason = ""\n', "test_queue.py"),
    _p("questions of one sandbox", "queue.py", "        if len(mine) >= limits.QUESTIONS_PER_SANDBOX:", "        if False:", "test_queue.py"),
    _p("questions in all", "queue.py", "        if len(self._entries) >= limits.QUESTIONS_WAITING:", "        if False:", "test_queue.py"),
    _p("how often", "queue.py", "        return self.left >= 1\n", "        return True\n", "test_queue.py"),
    _p("the same again", "queue.py", "        if question in self._refused:\n            return AGAIN\n", "", "test_queue.py"),
    _p("fair turns", "queue.py", "key=lambda e: (self._turn(e), e.id)", "key=lambda e: e.id", "test_queue.py"),
    _p("shown after it is recorded", "queue.py", "[entry for entry in self._entries.values() if entry.ready]", "list(self._entries.values())", "test_queue.py"),
    _p("no answer in time", "queue.py", "[entry for entry in self._entries.values() if entry.deadline <= now]", "[]", "test_queue.py"),
    _p("look-alikes", "question.py", 'char if char.isascii() else f"\\\\u{ord(char):04x}"', "char", "test_words.py"),
    _p("short words", "question.py", 'return plain if len(plain) <= most else f"{plain[: most - 3]}..."', "return plain", "test_words.py"),
    _p("the phrase is a secret", "phrase.py", "            if info.st_mode & 0o077 or info.st_uid != os.geteuid():", "            if False:", "test_words.py"),
    Guard("a death answers no", "broker/session/asking.py", "        self._settle(self._queue.fail_all(_DIED))\n", "", "tests/integration/test_asking.py", "agent_that_is_killed"),
    Guard("brokerctl answers what was offered", "broker/session/asking.py", "        if wrong:\n", "        if False:\n", "tests/integration/test_asking.py", "without_a_compositor"),
    Guard("gestures of this sandbox", "broker/session/meters.py", "        last = self._acted.get(request.lease.id)\n", "        last = max(self._acted.values(), default=None)\n", _D, "gesture"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

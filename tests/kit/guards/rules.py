"""The guards of decisions and questions, as ``guards`` describes them.

``python -m tests.kit.guards.rules [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("an array is refused as any other value is", 'if value in {"true", "false"}:', "tests/attack/test_record_values.py", "no_value_of_a_key"),
    Guard("hidden directories of the home are not imported", "if False:", "tests/policy/tools/test_import_flatpak.py", "another_spelling"),
    Guard("a wide directory by another name", "if path in _WIDE:", "tests/policy/tools/test_import_flatpak.py", "another_spelling"),
    Guard("directories by way of others", "if False:", "tests/policy/tools/test_import_flatpak.py", "another_spelling"),
    Guard("directories of the session and of the system", "if first:", "tests/policy/tools/test_import_flatpak.py", "another_spelling"),
    Guard("hints for unknown keys are bounded", "hinted = unknown", "tests/policy/records/test_loader.py", "hints_for_unknown"),
    Guard("limits are held", "if False:", "tests/broker/authority/test_decider.py", "rate or gesture or size"),
    Guard("the answer is checked", "return ''", "tests/broker/authority/test_decider.py", "not_offered"),
    Guard("rules asked again after the answer", "chosen = True", "tests/broker/authority/test_decider.py", "less_is_offered"),
    Guard("decided again before the effect", "", "tests/broker/authority/test_decider.py", "between_decision_and_effect"),
    Guard("recorded before the effect", "await self._log.note(self._event(request, answer, _ALLOW))", "tests/broker/authority/test_decider.py", "cannot_be_recorded"),
    Guard("a swap asks", "if reason:\n    permit.end(reason, where)\n    ended.append((permit, reason))", "tests/broker/authority/test_decider.py", "a_stream_that_now_needs_a_question"),
    Guard("a disposable is no other record's sandbox", "taken = False", "tests/attack/test_disposable_names.py", "another_ones"),
    Guard("a record's name means a fresh disposable", "return None", "tests/policy/rules/test_disposable_names.py", "as_target"),
    Guard("a shorter time is a grant's, too", "pass", "tests/broker/authority/test_decider.py", "is_that_of_a_grant"),
    Guard("grants looked at after a swap", "pass", "tests/broker/authority/test_decider.py", "no_rule_would_give"),
    Guard("a revoked grant cuts", "for permit in []:", "tests/broker/authority/test_decider.py", "revoking_a_grant_ends_its_streams"),
    Guard("a late yes is for the rule that asked", "if False:", "tests/broker/authority/test_late_answers.py", "changed"),
    Guard("a late yes is over in time", "pass", "tests/broker/authority/test_late_answers.py", "two_minutes"),
    Guard("one absent caller holds one question", "if asker in entry.askers:", "tests/broker/authority/questions/test_queue.py", "gone_and_wants"),
    Guard("grants end with the lease", "del lease", "tests/broker/authority/test_decider.py", "until_it_stops"),
    Guard("keep as the rule permits", "if said.keep is Keep.ONCE:", "tests/broker/authority/test_decider.py", "less_is_offered"),
    Guard("time to live", "permit = Permit(request=request, target=target or answer.target or '', where=answer.where, user=answer.user, autostart=answer.autostart, max_size=answer.limits.max_size, since=now, rule=answer.rule, answered=answer.verdict == 'ask', grant='' if grant is None else grant.id, scope=trio.CancelScope())", "tests/broker/authority/test_decider.py", "ten_minutes"),
    Guard("targets are no crowd", "if False:", "tests/broker/authority/test_decider.py", "too_many_targets"),
    Guard("live permits bounded", "if False:", "tests/broker/authority/test_decider.py", "as_many_permissions"),
    Guard("a flood is refused unrecorded", "await self._log.note(schema.QuestionAsked(**subject(request), question=0))\nreason = number.reason", "tests/attack/test_questions.py", "flood_of_questions"),
    Guard("max-size needs a process that counts", "if False:", "tests/broker/authority/test_decider.py", "size"),
    Guard("a broken set is not taken", "return InForce(read, None, kept=False)", "tests/broker/authority/test_rules.py", spans=2),
    Guard("rules recorded before they hold", "await self._log.note(_loaded(chosen))", "tests/broker/authority/test_rules.py", "cannot_be_recorded"),
    Guard("a kept set that was changed", "if False:", "tests/broker/authority/test_rules.py", "tampered"),
    Guard("focus for a second", "if self._since is not None:", "tests/broker/helpers/prompt/test_guard.py"),
    Guard("a touch starts the second again", "", "tests/broker/helpers/prompt/test_guard.py"),
    Guard("held keys are no rest", "ready = self._visible and self._focused", "tests/broker/helpers/prompt/test_guard.py"),
    Guard("seen before it counts", "ready = self._focused and (not self._held)", "tests/broker/helpers/prompt/test_guard.py"),
    Guard("Enter means nothing", "if name == 'Return':\n    return self._yes()\nelif text:\n    self.typed = (self.typed + text)[:len(WORD) + 1]", "tests/broker/helpers/prompt/test_dialog.py"),
    Guard("no answer over the accessibility bus", "calls[f'{ACTION}.DoAction'] = lambda: ('b', True)", "tests/broker/helpers/prompt/test_accessible.py", "no_action"),
    Guard("screen readers send nothing to the dialog", "", "tests/attack/test_screen_reader.py", "taken_over"),
    Guard("the word alone", "settled = True", "tests/broker/helpers/prompt/test_dialog.py"),
    Guard("a hand rests where it presses", "armed = self.guard.press(code, now)", "tests/broker/helpers/prompt/test_dialog.py", "hand_that_has_not_rested"),
    Guard("pressed where it is let go", "if not armed or pressed is None:", "tests/broker/helpers/prompt/test_dialog.py"),
    Guard("a press while inert", "self.pressed = self._button()", "tests/broker/helpers/prompt/test_dialog.py"),
    Guard("choices that were not offered", "reason = ''", "tests/broker/authority/questions/test_queue.py"),
    Guard("questions of one sandbox", "if False:", "tests/broker/authority/questions/test_queue.py"),
    Guard("questions in all", "if False:", "tests/broker/authority/questions/test_queue.py"),
    Guard("how often", "return True", "tests/broker/authority/questions/test_queue.py"),
    Guard("the same again", "", "tests/broker/authority/questions/test_queue.py"),
    Guard("fair turns", "return min(waiting, key=lambda e: e.id, default=None)", "tests/broker/authority/questions/test_queue.py"),
    Guard("shown after it is recorded", "waiting = list(self._entries.values())", "tests/broker/authority/questions/test_queue.py"),
    Guard("no answer in time", "over = []", "tests/broker/authority/questions/test_queue.py"),
    Guard("the phrase is a secret", "if False:", "tests/broker/core/test_prompt_words.py"),
    Guard("a death answers no", "", "tests/integration/test_asking.py", "agent_that_is_killed"),
    Guard("brokerctl answers with an offered choice", "if False:", "tests/integration/test_asking.py", "without_a_compositor"),
    Guard("gestures of this sandbox", "last = max(self._acted.values(), default=None)", "tests/broker/authority/test_decider.py", "gesture"),
    Guard("the record is asked", "if False:", "tests/broker/authority/test_decider.py", "stricter or valid_record"),
    Guard("look-alikes", "plain = ''.join((char for char in printable(untrusted_text, 4 * most)))", "tests/broker/core/test_prompt_words.py"),
    Guard("names keep their end", "return plain[:most - 3] + '...'", "tests/attack/test_question_texts.py", "names_keep"),
    Guard("hosts are shown whole", "if False:", "tests/attack/test_question_texts.py", "whole_host or security_key"),
    Guard("what is long is wrapped", "rows += [(claim, False) for claim in claims(question)]", "tests/attack/test_question_texts.py", "no_row"),
    Guard("a yes is for one request", "return ''", "tests/attack/test_question_texts.py", "makes_another_question"),
    Guard("a target's words stay with it", "return error", "tests/attack/test_transfer_told.py"),
    Guard("short words", "return plain", "tests/broker/core/test_prompt_words.py"),
    Guard("a name ends no string of a graph", "return text", "tests/policy/tools/test_graph.py", "never_syntax"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

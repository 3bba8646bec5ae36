"""The guards of the audit log, as ``guards`` describes them.

``python -m tests.kit.guards.audit [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("times after the arrival are marked", "late = False", "tests/attack/test_fleet_store.py", "are_marked"),
    Guard("missing events are a problem", "", "tests/attack/test_fleet_store.py", "cannot_be_compared"),
    Guard("events without a checkpoint are a problem", "if False:", "tests/attack/test_fleet_store.py", "without_a_checkpoint"),
    Guard("numbers of a fleet are looked for, not cast", "_NUMBER = \"(body::json ->> '{}')::numeric\"", "tests/integration/test_ship_postgres.py", "rows_of_one"),
    Guard("a machine's rows do not end a fleet's questions", "if True:", "tests/integration/test_ship_postgres.py", "rows_of_one"),
    Guard("bodies that are nested without an end", "except (msgspec.DecodeError, UnicodeDecodeError):", "tests/broker/cli/audit/proof/test_verify.py", "unreadable"),
    Guard("a removal that cannot be read", "with contextlib.suppress():", "tests/broker/cli/audit/proof/test_verify.py", "unreadable"),
    Guard("sizes fit into a database", '_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")', "tests/attack/test_audit_witness.py", "no_database"),
    Guard("claims of bytes are added without an end", "total = \"sum(coalesce(body ->> '$.{}', 0))\"", "tests/attack/test_audit_claims.py", "whatever_was_claimed"),
    Guard("claims of bytes have an end", "from_sandbox, to_sandbox = outcome.counts", "tests/attack/test_audit_claims.py", "recorded_up_to"),
    Guard("words of a proof are escaped", "return untrusted_text", "tests/attack/test_audit_claims.py", "proof_that_is_none"),
    Guard("a turn of the log that is not taken goes to the next one", "if False:", "tests/broker/authority/audit/test_store.py", "comes_with_a_cancellation"),
    Guard("a head is no checkpoint, at the start", "return True", "tests/attack/test_audit_tail.py", "any_note or first_note"),
    Guard("a head is no checkpoint, in verify", "return", "tests/attack/test_audit_tail.py", "any_note or first_note"),
    Guard("the key knows the newest size, at the start", "if False:", "tests/attack/test_audit_tail.py", "older_copy and killed"),
    Guard("the key knows the newest size, in verify", "if False:", "tests/attack/test_audit_tail.py", "older_copy and killed"),
    Guard("a size that was not noted stops the next commit", "", "tests/broker/authority/audit/proof/test_seal.py", "stops_the_next_commit"),
    Guard("the newest size follows each commit", "", "tests/attack/test_audit_tail.py", "older_copy and killed"),
    Guard("a new key at each start", "pass", "tests/attack/test_audit_tail.py", "own_key"),
    Guard("refusals have a budget for each sandbox", "return ''", "tests/attack/test_budgets.py", "others_their_names"),
    Guard("counted refusals keep their sandbox", "whose = schema.StreamRefused()", "tests/attack/test_budgets.py", "others_their_names"),
    Guard("a share of the log", "wait = 0.0", "tests/attack/test_budgets.py", "roll_the_log_over"),
    Guard("all shares together", "pass", "tests/attack/test_budgets.py", "together_are_bounded"),
    Guard("some of the log for each", "if not wait:", "tests/attack/test_budgets.py", "others_go_on"),
    Guard("budgets are a record's", "return sandbox", "tests/attack/test_log_shares.py", "one_share or one_budget"),
    Guard("charged as it is written", "return 2 * len(encode(event)) + _ROW_BYTES", "tests/attack/test_log_shares.py", "as_it_is_written"),
    Guard("a rate is a record's", "rate = self._rate(answer.rule, request.lease.sandbox, now)", "tests/attack/test_log_shares.py", "one_rate"),
    Guard("a stream asks the share", "", "tests/attack/test_log_shares.py", "links_and_files"),
    Guard("a decision asks the share", "pass", "tests/attack/test_budgets.py", "used_up_share"),
    Guard("a door asks the share", "", "tests/broker/host/test_admission.py", "share_of_the_log"),
    Guard("the microphone asks the share", "pass", "tests/broker/viewer/sound/test_sandbox_sound.py", "fills_no_log"),
    Guard("notifications have a budget for each sandbox", "if not self._all.take(now):", "tests/attack/test_budgets.py", "leave_the_others_theirs"),
    Guard("the person's own come first", "return (self._others or self._persons).popleft()", "tests/attack/test_budgets.py", "hide_no_crossing"),
    Guard("the person's own have no budget", "pass", "tests/attack/test_budgets.py", "hide_no_crossing"),
    Guard("sound connections of all", "", "tests/attack/test_budgets.py", "leave_places"),
    Guard("sound connections for those with few", "pass", "tests/attack/test_budgets.py", "leave_places"),
    Guard("once is one", "if False:", "tests/attack/test_budgets.py", "one_once"),
    Guard("a witness asks for a signature", "if False:", "tests/attack/test_audit_witness.py", "made_up"),
    Guard("a witness asks for a proof", "return WitnessFate.KEPT", "tests/attack/test_audit_witness.py", "real_key"),
    Guard("a witness follows the keys", "if False:", "tests/attack/test_audit_witness.py", "do_not_follow"),
    Guard("a peer has few logs", "if False:", "tests/attack/test_audit_witness.py", "without_end"),
    Guard("old notes are proved", "if True:", "tests/attack/test_audit_witness.py", "kept_before"),
    Guard("a witness asks for no proof without end", "if now == far:", "tests/attack/test_audit_witness.py", "never_content"),
    Guard("a log signs a checkpoint once", "if False:", "tests/attack/test_audit_witness.py", "signed_many_times"),
    Guard("one checkpoint of a peer's is looked at", "answer = await self._store.hold(epoch.name, offer)", "tests/attack/test_audit_witness.py", "no_queue"),
    Guard("a checkpoint that is never proved is a conflict", "pass", "tests/attack/test_audit_witness.py", "real_key"),
    Guard("hashes that were to stay", "if False:", "tests/attack/test_audit_removal.py", "to_stay"),
    Guard("checkpoints that were not compared are not counted", "report.against = len(against)", "tests/attack/test_audit_removal.py", "not_counted"),
    Guard("a witness's checkpoint stays provable", "return set()", "tests/attack/test_audit_removal.py", "provable"),
    Guard("no core files", "", "tests/attack/test_secrets.py", "forbids_them"),
    Guard("a core limit that pipes know", "pass", "tests/attack/test_secrets.py", "leaves_no_core or forbids_them"),
    Guard("local routes are own addresses", "return False", "tests/attack/test_secrets.py", "local_routes"),
    Guard("a proxy's table is not ours", "if kind != _RTN_LOCAL:", "tests/attack/test_secrets.py", "local_routes"),
    Guard("a cloud's metadata", "return not (target[0] in _CLOSED_OCTETS or target[:2] == _LINK_LOCAL or target[:3] == _ASSIGNMENTS or self._is_own(target))", "tests/broker/host/network/test_ethernet_frames.py", "metadata"),
    Guard("a send ends where a frame ends", "if False:", "tests/attack/test_frame_boundaries.py", "does_not_become or whatever"),
    Guard("a long frame is two sends", "if False:", "tests/attack/test_frame_boundaries.py", "does_not_become or whatever"),
    Guard("passt takes a send whole", "if False:", "tests/attack/test_frame_boundaries.py", "not_taken_whole"),
    Guard("passt's socket has room for a send", "if False:", "tests/attack/test_frame_boundaries.py", "cuts_sooner"),
    Guard("a bundle's name is its signer's", "", "tests/policy/tools/test_bundle.py", "anothers_bundle"),
    Guard("the report is text and not markup", "env = Environment(loader=PackageLoader('broker', 'data/report'), autoescape=False, finalize=_printed, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)", "tests/broker/cli/audit/test_html.py", "only_ever_text"),
    Guard("the report shows no hidden character", "return untrusted_value", "tests/broker/cli/audit/test_html.py", "only_ever_text"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

"""The guards of a wire's ends against each other, as ``guards`` describes them.

``python -m tests.kit.guards.wire [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

_HOSTILE = "tests/conformance/peer/test_hostile_far_end.py"
_HONEST = "tests/conformance/peer/test_honest_far_end.py"
_PEER = "tests/broker/wire/test_peer.py"
_BLOCKING = "tests/broker/wire/test_blocking.py"
_PAIR = "tests/attack/test_forged_pair_messages.py"

GUARDS = (
    Guard("a process serves its own rows, to those who may call them", "self.served = dict(rows)", _HOSTILE, "does_not_serve_ends_it"),
    Guard("descriptors come with requests and answers alone", "if False:", _HOSTILE, "message_that_has_none"),
    Guard("a call is given up after it was made", "if False:", _HOSTILE, "cancel_of_a_call"),
    Guard("a call that is to be finished is not given up", "if False:", _HOSTILE, "is_to_be_finished"),
    Guard("a far end gives no call up where this one gives none up", "if False:", _HOSTILE, "no_call_is_cancelled"),
    Guard("a notice without its descriptors is not handled", "if False:", _PEER, "notice_without_its_descriptors"),
    Guard("each call has a new number", "if False:", _HOSTILE, "repeated_call"),
    Guard("calls of the far end are bounded", "if False:", _HOSTILE, "more_calls_than"),
    Guard("items of a call come as they are taken", "if row.item is None:", _HOSTILE, "item_before"),
    Guard("an item is taken after it was sent", "if False:", _HOSTILE, "taken_item"),
    Guard("a process is called by rows that it serves to this caller", "if row is None:", _HOSTILE, "notice_of_a_row"),
    Guard("a call has one answer, and an answer a call", "if False:", _HOSTILE, "answer_to_no_call"),
    Guard("a message has the descriptors of its row", "if False:", _HOSTILE, "descriptors_ends_it"),
    Guard("a row with a permit is served only with a check of it", "if False:", _PEER, "without_a_check"),
    Guard("no handler runs before the permit and the turn of its call", "if False:", _PEER, "runs_as_it_is_read"),
    Guard("a far end that does not read its answers is given up", "pass", "tests/attack/test_forged_authority_messages.py", "does_not_read"),
    Guard("a caller that leaves cancels its call at the far end", "pass", _PAIR, "nobody_waits_for"),
    Guard("this end's close is an error that its callers expect", "raise", _PAIR, "of_another_sandbox"),
    Guard("a call that waits as the far end is lost is lost with it", "pass", "tests/attack/test_link_taken_viewer.py", "a_viewer_that_goes"),
    Guard("descriptors beyond the limit end the connection", "if False:", _HOSTILE, "wrong_number_of_descriptors"),
    Guard("a call that its caller has given up is ended", "if True:", _PEER, "cancelled_call"),
    Guard("ordered calls are served in order", "if True:", "tests/attack/test_link_lease_ids.py", "in_one_packet"),
    Guard("a process that may open no more files refuses this call", "if False:", _HOSTILE, "without_room"),
    Guard("a process that does not answer is given up", "if False:", _HOSTILE, "silent_far_end"),
    Guard("descriptors beyond the limit end a blocking connection", "if False:", _BLOCKING, "beyond_the_limit"),
    Guard("a moment without memory ends no process without a loop", "if True:", _BLOCKING, "moment_without_memory"),
    Guard("a moment without memory does not end a wire of frames", "if False:", "tests/attack/test_moments_without_memory.py", "sends_and_receives_later"),
    Guard("pings of a far end that does not read fill no memory", "if True:", _HOSTILE, "pings_of"),
    Guard("an answer whose descriptor is not taken has an error in its place", "if False:", _HOSTILE, "are_not_taken"),
    Guard("a row has one handler", "if False:", _PEER, "two_handlers"),
    Guard("a process starts with a handler for each row that it serves", "if False:", _PEER, "missing_handler"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

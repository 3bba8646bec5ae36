"""The guards of a link's ends against each other, as ``guards`` describes them.

``python -m tests.kit.guards.link [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("a pairing does not restore a forgotten broker", "", "tests/broker/cli/link/pairing/test_pinned.py"),
    Guard("the link's socket is another user's only where one is named", "return 0o666", "tests/broker/net/link_service/test_link_between_users.py", "only_where"),
    Guard("an epoch that is not recorded is closed", "pass", "tests/attack/test_link_taken_viewer.py", "cannot_be_recorded"),
    Guard("a pace for streams", "await trio.lowlevel.checkpoint()", "tests/broker/viewer/host_ends/test_host_intake.py", "flood_of_one_lease"),
    Guard("leases take turns", "await self._intake.turn()", "tests/broker/viewer/host_ends/test_host_intake.py", "comes_alone or give_up"),
    Guard("one lease has few undecided streams", "if line.places and self.undecided >= limits.LINK_UNDECIDED:", "tests/broker/viewer/host_ends/test_host_intake.py", "places_are_few"),
    Guard("undecided of all", "if line.places and line.places >= limits.LINK_UNDECIDED_PER_LEASE:", "tests/broker/viewer/host_ends/test_host_intake.py", "places_are_few"),
    Guard("a place for each lease", "if line.places >= limits.LINK_UNDECIDED_PER_LEASE or self.undecided >= limits.LINK_UNDECIDED:", "tests/broker/viewer/host_ends/test_host_intake.py", "places_are_few"),
    Guard("too many are refused", "if False:", "tests/attack/test_link_taken_host.py", "undecided_ones_are_few"),
    Guard("no new pace for a new epoch", "answering.place = place = Intake().enter(preamble.lease)", "tests/attack/test_link_taken_host.py", "no_reconnect_renews"),
    Guard("waiting streams are cut with their lease", "await place.turn()\nwith epoch.stream(preamble.number, opening):\n    await self._decide(opening, conn, answering)", "tests/attack/test_link_taken_host.py", "no_reconnect_renews"),
    Guard("a decision frees the place", "", "tests/attack/test_link_taken_host.py", "a_decided_stream_does_not_count_as_undecided"),
    Guard("an end frees the place", "", "tests/attack/test_link_taken_host.py", "undecided_ones_are_few"),
    Guard("a pace for epochs", "early = self._requests.early(now, 0)", "tests/attack/test_link_taken_host.py", "epochs_have_a_pace"),
    Guard("a debt of requests is waited for", "early = self._epochs.early(now)", "tests/attack/test_link_taken_host.py", "requests_above_the_rate_are_delayed_in_the_next_epoch"),
    Guard("requests have one pace for all epochs", "return Epoch(session, conn, self._parts, rest=rest, pinned=self._store.knows, alongside=self._witness.attend)", "tests/attack/test_link_taken_host.py", "requests_above_the_rate_are_delayed_in_the_next_epoch"),
    Guard("turns are of the host that is", "", "tests/attack/test_link_taken_host.py", "another_host"),
    Guard("one viewer has one host", "", "tests/attack/test_link_taken_host.py", "two_hosts"),
    Guard("the viewer owes its host answers", "epoch = Epoch(session, sock, self._parts, rest=rest, pinned=self._store.knows, alongside=self._witness.attend)", "tests/attack/test_link_taken_viewer.py", "never_says"),
    Guard("a peer that owes answers is given up", "", "tests/broker/net/link_service/test_epoch.py", "a_silent_end_is_given_up_in_either_direction"),
    Guard("an end has a reason", "", "tests/broker/net/link_service/test_epoch.py", "each_listener_gets_the_reason_of_the_end"),
    Guard("a count of refused streams is recorded once", "", "tests/attack/test_link_taken_viewer.py", "ends_while_refused"),
    Guard("a silent end holds up no lease of the other one", "await pending.ended.wait()", "tests/broker/net/link_service/test_epoch.py", "holds_up_no_lease"),
    Guard("a silent viewer is not dialled for each stream", "", "tests/attack/test_link_taken_viewer.py", "not_dialled_for_each"),
    Guard("a host that comes and goes does not fill the screen", "", "tests/attack/test_link_taken_host.py", "losses_are_notified"),
    Guard("an answer before the end", "hang_up(conn)\nawait answer(error)", "tests/broker/viewer/test_role.py", "denial"),
    Guard("one nonce is shown in a run of pairing", "if False:", "tests/attack/test_link_pairing.py", "again_and_again"),
    Guard("nothing is received after the last message", "", "tests/broker/net/link_service/test_sealed.py", "after_the_last"),
    Guard("another machine holds up no end for long", "grace = request.grace", "tests/attack/test_link_taken_viewer.py", "a_long_grace"),
    Guard("another machine's error breaks no protocol of ours", "kind = type(error)", "tests/broker/net/link/test_link_rows.py", "keeps_its_kind"),
    Guard("the text of another machine's error is one printable line", "message, hint = error.message, error.hint", "tests/broker/net/link/test_link_rows.py", "keeps_its_kind"),
    Guard("a peer's own words choose no cure", "local_part = problem", "tests/broker/net/link/test_cures.py", "own_words"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

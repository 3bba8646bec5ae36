"""The guards of a link's ends against each other, as ``guards`` describes them.

``python -m tests.kit.guards.link [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("a pace for streams", "broker/viewer/host_intake.py", "        await trio.sleep(self._pace.take(trio.current_time()))", "        await trio.lowlevel.checkpoint()", "tests/broker/viewer/test_host_intake.py", "flood_of_one_lease"),
    Guard("leases take turns", "broker/viewer/host_intake.py", "        async with self._line.lock:\n            await self._intake.turn()", "        await self._intake.turn()", "tests/broker/viewer/test_host_intake.py", "comes_alone or give_up"),
    Guard("undecided of one lease", "broker/viewer/host_intake.py", "            line.places >= limits.LINK_UNDECIDED_PER_LEASE\n            or self", "            self", "tests/broker/viewer/test_host_intake.py", "places_are_few"),
    Guard("undecided of all", "broker/viewer/host_intake.py", "\n            or self.undecided >= limits.LINK_UNDECIDED", "", "tests/broker/viewer/test_host_intake.py", "places_are_few"),
    Guard("a place for each lease", "broker/viewer/host_intake.py", "        if line.places and (\n", "        if (\n", "tests/broker/viewer/test_host_intake.py", "places_are_few"),
    Guard("too many are refused", "broker/viewer/host_link.py", "            if place is None:\n", "            if False:\n", "tests/attack/test_link_taken_host.py", "undecided_ones_are_few"),
    Guard("no new pace for a new epoch", "broker/viewer/host_link.py", "answering.place = place = self._intake.enter(preamble.lease)", "answering.place = place = Intake().enter(preamble.lease)", "tests/attack/test_link_taken_host.py", "no_reconnect_renews"),
    Guard("what waits is cut with its lease", "broker/viewer/host_link.py", "            with epoch.stream(preamble.number, opening):\n                await place.turn()\n", "            await place.turn()\n            with epoch.stream(preamble.number, opening):\n", "tests/attack/test_link_taken_host.py", "no_reconnect_renews"),
    Guard("a decision frees the place", "broker/viewer/host_link.py", "        \"\"\"Answer, unless that was done before.\"\"\"\n        self._leave_place()\n", "        \"\"\"Answer, unless that was done before.\"\"\"\n", "tests/attack/test_link_taken_host.py", "what_is_decided"),
    Guard("an end frees the place", "broker/viewer/host_link.py", "        \"\"\"Let go, without an answer where none was given.\"\"\"\n        self._leave_place()\n", "        \"\"\"Let go, without an answer where none was given.\"\"\"\n", "tests/attack/test_link_taken_host.py", "undecided_ones_are_few"),
    Guard("a pace for epochs", "broker/viewer/host_link.py", "max(self._epochs.early(now), self._requests.early(now, 0))", "self._requests.early(now, 0)", "tests/attack/test_link_taken_host.py", "epochs_have_a_pace"),
    Guard("a debt of requests is waited for", "broker/viewer/host_link.py", "max(self._epochs.early(now), self._requests.early(now, 0))", "self._epochs.early(now)", "tests/attack/test_link_taken_host.py", "asked_too_fast"),
    Guard("requests have one pace for all epochs", "broker/viewer/host_link.py", "            pace=self._requests,\n", "", "tests/attack/test_link_taken_host.py", "asked_too_fast"),
    Guard("turns are of the host that is", "broker/viewer/host_link.py", "        self._only(session.peer.name)  # or it would use up the turns of the other\n", "", "tests/attack/test_link_taken_host.py", "another_host"),
    Guard("one viewer has one host", "broker/viewer/host_link.py", "            self._only(epoch.name)\n", "", "tests/attack/test_link_taken_host.py", "two_hosts"),
    Guard("the viewer owes its host answers", "broker/host/viewer_link.py", "            patience=limits.LINK_ANSWER_SECONDS,\n", "", "tests/attack/test_link_taken_viewer.py", "never_says"),
    Guard("whoever owes answers is given up", "broker/services/link/epoch.py", "                    nursery.start_soon(self._until, self._watch_answers)\n", "", "tests/broker/services/link/test_epoch.py", "answers_nothing"),
    Guard("an end is told before it is waited for", "broker/services/link/epoch.py", "                    finally:\n                        # Before", "                    except InternalError:\n                        # Before", "tests/attack/test_link_taken_viewer.py", "one_that_goes"),
    Guard("whoever is told is told why", "broker/services/link/epoch.py", "            self.reason = self.reason or str(error)\n            raise\n", "            raise\n", "tests/broker/services/link/test_epoch.py", "told_why"),
    Guard("an answer before the end", "broker/viewer/role.py", "                    await answer(error)\n                    raise\n", "                    hang_up(conn)\n                    await answer(error)\n                    raise\n", "tests/broker/viewer/test_role.py", "denial"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

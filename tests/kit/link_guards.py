"""The guards of a link's ends against each other, as ``guards`` describes them.

``python -m tests.kit.link_guards [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards import Guard, main

_INTAKE, _EPOCH = (
    "tests/broker/session/test_link_intake.py",
    "tests/broker/session/test_link_epoch.py",
)
_HOST, _VIEWER = (
    "tests/attack/test_link_taken_host.py",
    "tests/attack/test_link_taken_viewer.py",
)


def _i(name: str, source: str, without: str, word: str) -> Guard:
    return Guard(name, "broker/session/link_intake.py", source, without, _INTAKE, word)


def _v(name: str, source: str, without: str, word: str) -> Guard:
    return Guard(name, "broker/session/link_viewer.py", source, without, _HOST, word)


def _e(name: str, source: str, without: str, test: str, word: str) -> Guard:
    return Guard(name, "broker/session/link_epoch.py", source, without, test, word)


GUARDS = (
    _i("a pace for streams", "        await trio.sleep(self._pace.take(trio.current_time()))", "        await trio.lowlevel.checkpoint()", "flood_of_one_lease"),
    _i("leases take turns", "        async with self._line.lock:\n            await self._intake.turn()", "        await self._intake.turn()", "comes_alone or give_up"),
    _i("undecided of one lease", "            line.places >= limits.LINK_UNDECIDED_PER_LEASE\n            or self", "            self", "places_are_few"),
    _i("undecided of all", "\n            or self.undecided >= limits.LINK_UNDECIDED", "", "places_are_few"),
    _i("a place for each lease", "        if line.places and (\n", "        if (\n", "places_are_few"),
    _v("too many are refused", "            if place is None:\n", "            if False:\n", "undecided_ones_are_few"),
    _v("no new pace for a new epoch", "answering.place = place = self._intake.enter(preamble.lease)", "answering.place = place = Intake().enter(preamble.lease)", "no_reconnect_renews"),
    _v("what waits is cut with its lease", "            with epoch.stream(preamble.number, opening):\n                await place.turn()\n", "            await place.turn()\n            with epoch.stream(preamble.number, opening):\n", "no_reconnect_renews"),
    _v("a decision frees the place", '        """Answer, unless that was done before."""\n        self._leave_place()\n', '        """Answer, unless that was done before."""\n', "what_is_decided"),
    _v("an end frees the place", '        """Let go, without an answer where none was given."""\n        self._leave_place()\n', '        """Let go, without an answer where none was given."""\n', "undecided_ones_are_few"),
    _v("a pace for epochs", "max(self._epochs.early(now), self._requests.early(now, 0))", "self._requests.early(now, 0)", "epochs_have_a_pace"),
    _v("a debt of requests is waited for", "max(self._epochs.early(now), self._requests.early(now, 0))", "self._epochs.early(now)", "asked_too_fast"),
    _v("requests have one pace for all epochs", "            pace=self._requests,\n", "", "asked_too_fast"),
    _v("turns are of the host that is", "        self._only(session.peer.name)  # or it would use up the turns of the other\n", "", "another_host"),
    _v("one viewer has one host", "            self._only(epoch.name)\n", "", "two_hosts"),
    Guard("the viewer owes its host answers", "broker/session/link_host.py", "            patience=limits.LINK_ANSWER_SECONDS,\n", "", _VIEWER, "never_says"),
    _e("whoever owes answers is given up", "                    nursery.start_soon(self._until, self._watch_answers)\n", "", _EPOCH, "answers_nothing"),
    _e("an end is told before it is waited for", "                    finally:\n                        # Before", "                    except InternalError:\n                        # Before", _VIEWER, "one_that_goes"),
    _e("whoever is told is told why", "            self.reason = self.reason or str(error)\n            raise\n", "            raise\n", _EPOCH, "told_why"),
    Guard("an answer before the end", "broker/session/viewer.py", "                    await answer(error)\n                    raise\n", "                    hang_up(conn)\n                    await answer(error)\n                    raise\n", "tests/broker/session/test_viewer.py", "denial"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)

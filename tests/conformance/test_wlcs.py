"""What passes of the Wayland Conformance Suite directly passes through the filter.

Each test runs on a compositor of its own, and again on one with a sandbox's jailed
worker before it.  Where only the second fails, ``differences.py`` says why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.streams.wayland_verdicts import OPTIONS, advertised_version
from broker.ipc.worker import Fault
from tests.kit.vm.newer_suite import SUITE
from tests.kit.vm.suite_root import suite_root
from tests.kit.wlcs.differences import DIFFERENCES, Difference, difference
from tests.kit.wlcs.run import Result, Suite, Verdict, suite
from tests.kit.workers import open_workers

_MISSING = re.compile(r"Missing extension: (\w+)>= (\d+)")
PAGE = Path(__file__).parents[1] / "kit/wlcs/FIGURES.md"
AT_ONCE = 2
PARTS = {"weston": 2, "sway": 4}
LEAST = 0.5
"""The share of tests that do not skip which pass directly, at least: else the suite,
or what is written for it, is not in order."""
SHORT = {
    "SelfTest.given_second_client_when_both_create_a_surface_nothing_bad_happens",
    "ClientSurfaceEventsTest.surface_moves_under_pointer",
    "ClientSurfaceEventsTest.surface_resizes_under_pointer",
    "FrameSubmission.post_one_frame_at_a_time",
    "RelativePointer.relative_pointer_gets_movement",
    "PointerConstraints.when_surface_is_selected_locked_pointer_gets_locked_notification",
    "XdgSurfaceStableTest.gets_configure_event",
    "XdgToplevelStableTest.pointer_respects_window_geom_offset",
    "XdgToplevelStableTest.touch_respects_window_geom_offset",
    "XdgToplevelStableTest.pointer_leaves_surface_during_interactive_resize",
    "XdgToplevelStableConfigurationTest.window_can_unfullscreen_itself",
    "PointerCrossingSurfaceEdge/SurfacePointerMotionTest.pointer_movement/0",
    "AllSurfaceTypes/TouchTest.touch_on_surface_seen/subsurface_at_x7_y12",
    "MultiRectCorners/RegionSurfaceInputCombinations.input_inside_region_seen/3",
    "SurfaceInputRegions/SurfaceInputCombinations.input_not_seen_over_empty_region/9",
    "XdgShellStableSubsurfaces/SubsurfaceTest.subsurface_of_a_subsurface_handled/0",
    "XdgShellStableSubsurfaces/SubsurfaceMultilevelTest.by_default_subsurface_is_sync/0",
    "Gravity/XdgPopupPositionerTest.xdg_shell_stable_popup_placed_correctly/4",
    "XdgPopupStable/XdgPopupTest.popup_gives_up_pointer_focus_when_gone/0",
}
"""These pass both ways."""
KNOWN = (
    "XdgShellStableSubsurfaces/SubsurfaceTest.subsurface_extends_parent_input_region/0"
)


def wrong(test: str, kind: str, through: Result) -> str:
    """What is wrong with a test that passes directly; empty: nothing."""
    known = difference(test, kind)
    if through.verdict is Verdict.SKIP:
        missing = _MISSING.search(through.text)
        if missing and advertised_version(missing[1], int(missing[2]), OPTIONS) == 0:
            return ""
        return f"{test}: skipped, and what it needs is offered"
    if through.verdict is Verdict.PASS and known:
        return f"{test}: passes, and differences.py has it under '{known.row}'"
    if through.verdict is Verdict.FAIL and not known:
        return f"{test}: passes directly and not through the filter"
    return ""


async def _compare(s: Suite, test: str) -> tuple[Counter[str], list[str]]:
    directly = await s.run(test, through=False)
    if directly.verdict is Verdict.SKIP:
        return Counter(["skip"]), []
    through = await s.run(test, through=True)
    assert Fault.OURS not in through.faults, through.text
    if directly.verdict is not Verdict.PASS:
        return Counter([f"{directly.verdict} -> {through.verdict}"]), []
    found = wrong(test, s.kind, through)
    told = [found, through.text] if found else []
    return Counter([f"{directly.verdict} -> {through.verdict}"]), told


async def _compared(
    kind: str, choose: Callable[[list[str]], list[str]], *, root: Path | None = None
) -> Counter[str]:
    """Compare the tests that ``choose`` takes of all, some at once; fail if any is wrong."""
    counts: Counter[str] = Counter()
    told: list[str] = []

    async def some(s: Suite, tests: Iterable[str]) -> None:
        for test in tests:
            count, found = await _compare(s, test)
            if found:
                # Its own deadlines are seconds: a busy machine may be too slow for one.
                print(f"again: {found[0]}")
                count, found = await _compare(s, test)
            counts.update(count)
            told.extend(found)

    async with open_workers() as workers, suite(kind, workers, root=root) as s:
        tests = iter(choose(s.tests()))
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(some, s, tests)
    print(f"{kind}: {dict(counts)}")
    assert not told, "\n".join(told)
    return counts


async def _tests(root: Path | None = None) -> list[str]:
    async with open_workers() as workers, suite("weston", workers, root=root) as s:
        return s.tests()


async def test_short_part_passes_through_a_worker():
    short = {*SHORT, KNOWN}
    counts = await _compared("weston", lambda tests: [t for t in tests if t in short])
    assert counts == {"pass -> pass": len(SHORT), "pass -> fail": 1}


@pytest.mark.long
@pytest.mark.timeout(590)
@pytest.mark.parametrize(
    ("kind", "part"), [(kind, part) for kind, n in PARTS.items() for part in range(n)]
)
async def test_what_passes_directly_passes_through_a_worker(kind, part):
    counts = await _compared(kind, lambda tests: tests[part :: PARTS[kind]])
    passed = sum(n for what, n in counts.items() if what.startswith("pass"))
    assert passed >= LEAST * (counts.total() - counts["skip"])


@pytest.mark.long
@pytest.mark.timeout(590)
async def test_what_a_newer_release_adds_passes_through_a_worker():
    root = await trio.to_thread.run_sync(partial(suite_root, SUITE, ("wlcs",)))
    ours = {*await _tests()}
    added = [test for test in await _tests(root) if test not in ours]
    for each in DIFFERENCES:
        assert not each.newer or _of_a_test(each, added), each
    for kind in PARTS:
        counts = await _compared(kind, lambda _: added, root=root)
        assert counts["pass -> pass"] >= len(added) / 20


def test_wrong_are_unknown_failures_needless_rows_and_skips_of_what_is_offered():
    test = "SelfTest.any"
    passed, failed = Result(Verdict.PASS, ""), Result(Verdict.FAIL, "")
    offered = Result(Verdict.SKIP, "Missing extension: xdg_wm_base>= 1")
    never = Result(Verdict.SKIP, "Missing extension: zwlr_layer_shell_v1>= 1")
    assert wrong(test, "weston", failed)
    assert wrong(KNOWN, "weston", passed)
    assert wrong(test, "weston", offered)
    assert not wrong(test, "weston", passed)
    assert not wrong(KNOWN, "weston", failed)
    assert not wrong(test, "sway", never)


async def test_each_known_difference_is_of_a_test():
    tests = await _tests()
    for each in DIFFERENCES:
        assert each.newer or _of_a_test(each, tests), each


def _of_a_test(row: Difference, tests: list[str]) -> bool:
    return any(re.fullmatch(row.tests, test) for test in tests)


def test_each_known_difference_is_a_row_of_the_page():
    _, table = PAGE.read_text().split("| tests | what forbids them |")
    rows = [
        line.split("|")[1].strip() for line in table.split("\n\n")[0].splitlines()[2:]
    ]
    assert sorted(rows) == sorted({each.row for each in DIFFERENCES})

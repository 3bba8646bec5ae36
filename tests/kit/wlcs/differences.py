"""Which tests of the suite pass directly and fail through the filter, and why they must.

Each row is one of FIGURES.md, "Tests that a guarantee forbids", which says what of the
filter forbids it.  A test that a row names must differ, and no other may.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BOTH = frozenset({"weston", "sway"})
WESTON = frozenset({"weston"})
SWAY = frozenset({"sway"})


@dataclass(frozen=True)
class Difference:
    """``tests`` is matched with the whole name; ``kinds`` are compositors.

    ``newer``: release 1.5.0 lacks the tests.
    """

    row: str
    tests: str
    kinds: frozenset[str] = BOTH
    newer: bool = False


_SUBSURFACE = "input on a subsurface outside of its window"
_MARGIN = "input in a margin outside of the window's geometry"
_SHORT_FILE = "a file that is shorter than its pool"
_SELECTION = "a selection without input"
_SLID = "a popup at the edge of the screen"
_BESIDE = "a press beside a popup"


# Of the parameters of one point, in twos for pointer and finger: 4 and 5 are a plain
# window, 6 and 7 one with margins, 8 to 11 subsurfaces.
def _of(each: range, *, of: int) -> str:
    return "|".join(str(point * 12 + n) for point in range(of) for n in each)


_POINTS = "RegionSurfaceInputCombinations.input_inside_region_seen"

DIFFERENCES = (
    Difference(
        _SHORT_FILE, "(Second)?BadBufferTest.(DISABLED_)?test_truncated_shm_file"
    ),
    Difference(_SELECTION, "CopyCutPaste.*", WESTON),
    Difference(
        _SUBSURFACE,
        "AllSurfaceTypes/TouchTest.touch_and_drag_on_surface_seen/subsurface_.*",
        WESTON,
    ),
    Difference(
        _SUBSURFACE,
        "XdgShellStableSubsurfaces/SubsurfaceTest.subsurface_extends_parent_input_region/0",
    ),
    Difference(
        _SUBSURFACE,
        "SurfaceInputRegions/SurfaceInputCombinations."
        "input_seen_by_subsurface_after_parent_unmapped_and_remapped/([89]|1[01])",
        WESTON,
    ),
    Difference(_SUBSURFACE, f"DefaultEdges/{_POINTS}/({_of(range(8, 12), of=4)})"),
    Difference(_SUBSURFACE, f"MultiRectEdges/{_POINTS}/({_of(range(8, 12), of=5)})"),
    Difference(_MARGIN, f"DefaultEdges/{_POINTS}/({_of(range(6, 8), of=4)})", WESTON),
    # The third of its points is inside.
    Difference(_MARGIN, f"MultiRectEdges/{_POINTS}/([67]|18|19|42|43|54|55)", WESTON),
    Difference(
        _MARGIN,
        "SurfaceInputRegions/SurfaceInputCombinations."
        "(input_hits_parent_after_falling_through_subsurface|"
        "input_seen_after_dragged_off_surface)/[67]",
        WESTON,
    ),
    # weston 10 does not look at the screen.
    Difference(
        _SLID,
        "ConstraintAdjustment(None|Slide)/XdgPopupPositionerTest."
        "xdg_shell_stable_popup_placed_correctly/[1-4]",
        SWAY,
        newer=True,
    ),
    Difference(
        _BESIDE,
        "XdgPopupTest.when_parent_surface_is_moved_a_nonreactive_popup_is_not_moved",
        WESTON,
        newer=True,
    ),
)


def difference(test: str, kind: str) -> Difference | None:
    """Return the row that names a test on a compositor."""
    for each in DIFFERENCES:
        if kind in each.kinds and re.fullmatch(each.tests, test):
            return each
    return None

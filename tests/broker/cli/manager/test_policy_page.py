"""The policy page's picture and its calls, without a window."""

from __future__ import annotations

import warnings

import pytest

from broker.core.errors import SetupError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyGObject's importer is of an older kind
        import broker.cli.manager.toolkit  # noqa: F401
except SetupError as error:
    pytest.skip(str(error), allow_module_level=True)

from broker.cli.manager.pages.policy_graph import (
    NODES,
    GraphFlow,
    distance,
    line_between,
    places,
    shown_flows,
)
from broker.cli.manager.pages.policy_page import options_of


def flow(source, target):
    return GraphFlow(source, target, "vitrail.Display", "allow", "", "x:1", False)


def test_facts_are_options():
    assert options_of("") == []
    assert options_of("scheme=https host=a=b") == ["--scheme=https", "--host=a=b"]
    for wrong in ("scheme", "--policy=/etc", "policy=/etc", "json=1"):
        with pytest.raises(ValueError, match="not a fact"):
            options_of(wrong)


def test_a_picture_of_many_has_the_most_connected():
    flows = [flow(f"box-{n}", "dom0") for n in range(100)]
    flows += [flow("box-77", f"@dispvm:box-{n}") for n in range(50)]
    names, kept = shown_flows(flows)
    assert len(names) == NODES
    assert {"dom0", "box-77"} <= {*names}
    assert all({one.source, one.box} <= {*names} for one in kept)
    at = places(names)
    assert len({*at.values()}) == NODES


def test_a_click_is_near_its_own_arrow():
    there = line_between((100, 100), (400, 300))
    back = line_between((400, 300), (100, 100))
    middle = ((there[0] + there[2]) / 2, (there[1] + there[3]) / 2)
    assert distance(there, *middle) < 1e-6
    assert distance(back, *middle) > 7
    # An arrow begins and ends at the boxes, 126 pixels wide and 34 high.
    assert there[0] > 100
    assert there[2] < 400

"""The Grafana files, read by the models of Grafana's own SDK.

Those are generated from Grafana's schemas.  They read any JSON: so what they do not
write again is not Grafana's, and the values are compared with the types they declare.
"""

from __future__ import annotations

import copy
import enum
import json
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import alerting, dashboard

from tests.integration.test_fleet_grafana import DASHBOARD, RULES


def lost(ours: object, theirs: object, at: str) -> Iterator[str]:
    """Our places that their models do not have, or have otherwise."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from lost(value, theirs.get(name, "nothing"), f"{at}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{at}[{number}]")
    elif ours != theirs:
        yield f"{at}: {ours!r}, read as {theirs!r}"


def mistyped(value: object, hint: Any, at: str) -> Iterator[str]:
    """Places whose value is not of the type that their models name."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Union:
        # The places farthest inside say why it is none of them.
        found = [[*mistyped(value, one, at)] for one in inner]
        yield from (
            max(found, key=lambda one: one[0].partition(": ")[0]) if all(found) else ()
        )
    elif kind is typing.Literal:
        if value not in inner:
            yield f"{at}: {value!r} is none of {inner}"
    elif kind is list and isinstance(value, list):
        for number, one in enumerate(value):
            yield from mistyped(one, inner[0], f"{at}[{number}]")
    elif kind is dict and isinstance(value, dict):
        for name, one in value.items():
            yield from mistyped(one, inner[1], f"{at}.{name}")
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [one.value for one in hint]:
            yield f"{at}: {value!r} is none of {hint}"
    elif hint in (object, Any):
        return
    elif hasattr(value, "from_json"):
        for name, one in typing.get_type_hints(type(value)).items():
            yield from mistyped(getattr(value, name), one, f"{at}.{name}")
    elif isinstance(value, bool) != (hint is bool) or not isinstance(
        value, (int, float) if hint is float else kind or hint
    ):
        yield f"{at}: {value!r} is not {hint}"


def problems(ours: dict[str, Any], model: Any, at: str) -> list[str]:
    plugins.register_default_plugins()
    theirs = model.from_json(copy.deepcopy(ours))
    written = json.loads(JSONEncoder(sort_keys=True).encode(theirs))
    return [*lost(ours, written, at), *mistyped(theirs, model, at)]


def test_grafanas_own_models_have_all_that_the_files_say() -> None:
    assert problems(DASHBOARD, dashboard.Dashboard, "dashboard") == []
    for uid, rule in RULES.items():
        assert problems(rule, alerting.Rule, uid) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["panels"][0].update(gridpos={}),
        lambda one: one["panels"][0].update(title=7),
        lambda one: one["panels"][0]["gridPos"].update(w="4"),
        lambda one: one["panels"][6]["fieldConfig"]["defaults"].update(min="none"),
        lambda one: one["time"].update(form="now-1h"),
        lambda one: one["templating"]["list"][0].update(type="source"),
    ],
)
def test_models_notice_what_grafana_would_not_read(
    change: Callable[[dict[str, Any]], None],
) -> None:
    changed = copy.deepcopy(DASHBOARD)
    change(changed)
    assert problems(changed, dashboard.Dashboard, "dashboard")

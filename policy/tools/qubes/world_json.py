"""A world as Qubes' policy tools read it: ``--system-info``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from policy import limits
from policy.rules.world import Domain, World


class WorldError(ValueError):
    """The JSON of a world is not one; the text says where and why."""


def world_from_json(data: object) -> World:
    """Return the world that decoded JSON describes; raises WorldError."""
    if not isinstance(data, Mapping) or not isinstance(data.get("domains"), Mapping):
        raise WorldError(
            "a world must be an object whose 'domains' map names to properties"
        )
    entries: Mapping[str, Any] = data["domains"]
    if len(entries) > limits.DOMAINS:
        raise WorldError(f"more than {limits.DOMAINS} domains")
    return World(
        MappingProxyType(
            {name: _domain(name, value) for name, value in entries.items()}
        )
    )


_TEXT = ("type", "power_state")
_MAYBE_TEXT = ("default_dispvm", "uuid", "name")
_YES_NO = ("template_for_dispvms", "internal")


def _domain(name: str, value: object) -> Domain:
    """Convert one domain of the JSON; raises WorldError."""
    if not isinstance(value, Mapping):
        raise WorldError(f"domains.{name}: not an object")
    kinds: tuple[tuple[tuple[str, ...], type | tuple[type, ...], str], ...] = (
        (_TEXT, str, "text"),
        (_MAYBE_TEXT, (str, type(None)), "text or null"),
        (_YES_NO, bool, "true or false"),
    )
    for keys, kind, words in kinds:
        for key in keys:
            if key in value and not isinstance(value[key], kind):
                raise WorldError(f"domains.{name}.{key}: expected {words}")
    tags = value.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise WorldError(f"domains.{name}.tags: expected an array of text")
    return Domain(
        # An entry under uuid:… says its name; others are under it.
        str(value.get("name") or name) if name.startswith("uuid:") else name,
        str(value.get("type", "")),
        frozenset(tags),
        value.get("default_dispvm"),
        bool(value.get("template_for_dispvms", False)),
        str(value.get("power_state", "Halted")),
        value.get("uuid"),
        bool(value.get("internal", False)),
    )

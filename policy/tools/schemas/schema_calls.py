"""JSON Schemas of the input and output of ``brokerctl policy``.

A world (``--world``), a call (a line of ``eval --batch``) and its answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from policy.tools.schemas.schema import Schema, schema

_DRAFT = "http://json-schema.org/draft-07/schema#"


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _maybe(description: str, kind: str = "string") -> Schema:
    return {"type": [kind, "null"], "description": description}


def _yes_no(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def world_schema() -> Schema:
    """Return the schema of a world: what Qubes' ``--system-info`` reads.

    Keys that it does not name are passed over.
    """
    domain: Schema = {
        "type": "object",
        "properties": {
            "name": _maybe("For a 'uuid:…' entry, the name of the sandbox."),
            "type": _text(
                "The type that '@type:' matches: persistent, disposable, AppVM, …"
            ),
            "tags": {"type": "array", "items": {"type": "string"}},
            "default_dispvm": _maybe("The sandbox's default disposable ('@dispvm')."),
            "template_for_dispvms": _yes_no(
                "Whether disposables can be created from it."
            ),
            "power_state": _text("'Running', or any other state."),
            "uuid": _maybe("The sandbox's UUID."),
            "internal": _yes_no("Whether the sandbox is never offered to a user."),
        },
    }
    return {
        "$schema": _DRAFT,
        "title": "Vitrail world: the sandboxes that rules refer to",
        "type": "object",
        "required": ["domains"],
        "properties": {
            "domains": {
                "description": "Map of names to properties; 'dom0' is the user at the viewer.",
                "type": "object",
                "additionalProperties": domain,
            }
        },
    }


def call_schema() -> Schema:
    """Return the schema of a line of ``eval --batch``."""
    world = world_schema()
    return {
        "$schema": _DRAFT,
        "title": "Vitrail call: a line of brokerctl policy eval --batch",
        "type": "object",
        "required": ["service", "source"],
        "additionalProperties": False,
        "properties": {
            "service": _text("The service, such as vitrail.OpenURL."),
            "argument": {
                **_text("Begins with '+'; a single '+' means no argument."),
                "default": "+",
            },
            "source": _text("The sandbox that calls."),
            "target": {
                **_text("Target of the call; '' means no target."),
                "default": "",
            },
            "mime": _maybe("The type that the source claims for its data."),
            "scheme": _maybe("The scheme of the call's address; '' if it has none."),
            "host": _maybe("The host of the call's address; '' if it has none."),
            "size": _maybe("Size of the data in bytes.", "integer"),
            "protocol": _maybe(
                "Protocol of a flow: tcp, udp or icmp; dns for a lookup."
            ),
            "port": _maybe("Destination port of a flow.", "integer"),
            "key": _maybe(
                "Fingerprint or comment of the ssh key; '*' for a list of keys."
            ),
            "device": _device(),
            "policy": {
                "type": ["object", "null"],
                "description": "Map of file names to rules that replace those on disk.",
                "additionalProperties": {"type": "string"},
            },
            "world": {
                "anyOf": [
                    {key: world[key] for key in ("type", "required", "properties")},
                    {"type": "null"},
                ]
            },
        },
    }


def _device() -> Schema:
    """Return the JSON Schema of a call's device."""
    return {
        "description": "The attached device (vitrail.Device).",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            "id": _text("VVVV:PPPP, in hexadecimal."),
            "serial": _text("Its serial number."),
            "port": _text("As 1-2.1."),
            "hash": _text("The hash of the device's descriptors."),
            "interfaces": {
                "description": "CC:SS:PP of each interface, in descriptor order.",
                "type": "array",
                "items": {"type": "string"},
            },
        },
    }


def answer_schema() -> Schema:
    """Return the schema of an answer of ``eval --json`` and ``eval --batch``."""
    return {
        "$schema": _DRAFT,
        "title": "Vitrail answer: the output of brokerctl policy eval",
        "type": "object",
        "required": [
            *("decision", "file", "line", "target", "targets", "default_target"),
            *("user", "autostart", "notify", "reason"),
        ],
        "additionalProperties": False,
        "properties": {
            "decision": {"enum": ["allow", "ask", "deny", "error"]},
            "file": _maybe("The file of the rule that decided."),
            "line": _maybe("The line of that rule.", "integer"),
            "target": _maybe("allow: the target of the call."),
            "targets": {
                "description": "ask: the targets to choose from, sorted.",
                "anyOf": [
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "null"},
                ],
            },
            "default_target": _maybe("ask: the preselected target."),
            "user": _maybe("The user that runs the call in the target."),
            "autostart": _maybe("Whether a stopped target is started.", "boolean"),
            "notify": _yes_no("Whether the user is notified."),
            "reason": _text("The reason for the decision."),
            "attach": _text("allow: when the device is attached."),
            "limits": {
                "type": "object",
                "description": "Limits of the rule; above a limit, the answer is deny.",
            },
        },
    }


SCHEMAS: Mapping[str, Callable[[], Schema]] = MappingProxyType(
    {
        "sandbox": schema,
        "world": world_schema,
        "call": call_schema,
        "answer": answer_schema,
    }
)
"""Every schema that is shipped, by the name of its file."""


def text_of(name: str) -> str:
    """Return a schema as it is shipped."""
    return json.dumps(SCHEMAS[name](), indent=2, ensure_ascii=False) + "\n"

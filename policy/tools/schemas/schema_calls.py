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
            "name": _maybe("Under a 'uuid:…' entry, the sandbox that it is."),
            "type": _text("What '@type:' means: persistent, disposable, AppVM, …"),
            "tags": {"type": "array", "items": {"type": "string"}},
            "default_dispvm": _maybe("The sandbox's own '@dispvm'."),
            "template_for_dispvms": _yes_no("Whether disposables are made of it."),
            "power_state": _text("'Running', or anything else."),
            "uuid": _maybe("Its uuid."),
            "internal": _yes_no("Never offered to a user."),
        },
    }
    return {
        "$schema": _DRAFT,
        "title": "Vitrail world: the sandboxes that rules speak about",
        "type": "object",
        "required": ["domains"],
        "properties": {
            "domains": {
                "description": "Name to properties; 'dom0' is the user at the viewer.",
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
            "service": _text("As vitrail.OpenURL."),
            "argument": {**_text("Begins with '+'; '+' alone: none."), "default": "+"},
            "source": _text("Who asks."),
            "target": {**_text("Target of the call; '' is none."), "default": ""},
            "mime": _maybe("The type that the source claims for its data."),
            "scheme": _maybe("The scheme of its address; '' for none."),
            "host": _maybe("The host of its address; '' for none."),
            "size": _maybe("Bytes that would flow.", "integer"),
            "protocol": _maybe("Of a flow: tcp, udp, icmp; dns: a lookup."),
            "port": _maybe("Of a flow, at its destination.", "integer"),
            "key": _maybe("The ssh key: fingerprint, or comment; '*': a list of keys."),
            "device": _device(),
            "policy": {
                "type": ["object", "null"],
                "description": "File name to text, instead of the rules on disk.",
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
            "hash": _text("Of its descriptors."),
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
        "title": "Vitrail answer: what brokerctl policy eval says",
        "type": "object",
        "required": [
            *("decision", "file", "line", "target", "targets", "default_target"),
            *("user", "autostart", "notify", "reason"),
        ],
        "additionalProperties": False,
        "properties": {
            "decision": {"enum": ["allow", "ask", "deny", "error"]},
            "file": _maybe("The file of the rule that decided."),
            "line": _maybe("Its line.", "integer"),
            "target": _maybe("allow: where the call goes."),
            "targets": {
                "description": "ask: what may be chosen, sorted.",
                "anyOf": [
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "null"},
                ],
            },
            "default_target": _maybe("ask: the preselected target."),
            "user": _maybe("Who runs it in the target."),
            "autostart": _maybe("Whether a target that is off is started.", "boolean"),
            "notify": _yes_no("Whether the user is notified."),
            "reason": _text("Why."),
            "attach": _text("allow: when the device is attached."),
            "limits": {
                "type": "object",
                "description": "What the rule limits; beyond it the answer is deny.",
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

"""Rows of the messages about files and links (``channel_policy``)."""

from __future__ import annotations

from collections.abc import Mapping

from docs.tables.channel import ChannelPolicy, no_descriptors

_BROKER, _WORKER = "the broker", "this sandbox's worker"
_PROGRAM = "any program of the sandbox"
_DECODE = "decoding one bounded message"
_MOVE = "a pipe and a task in two workers, until it ends or stalls"


def _ask(cost: str, gain: str) -> ChannelPolicy:
    return no_descriptors(_PROGRAM, "first, once in a connection", cost, gain)


def _reply(when: str, gain: str) -> ChannelPolicy:
    return no_descriptors(_WORKER, when, _DECODE, gain)


def _entry(who: str, when: str, gain: str) -> ChannelPolicy:
    return no_descriptors(who, when, "bytes of the pipe, within the quota", gain)


GUEST: Mapping[str, ChannelPolicy] = {
    "open-url": _ask(
        "a decision, perhaps a question", "An address is opened where a rule says so."
    ),
    "open-file": _ask(
        "a decision, perhaps a question", "A file is opened where a rule says so."
    ),
    "copy": _ask(
        "a decision, perhaps a question", "Files are kept where a rule says so."
    ),
    "take": _ask(
        "a look into a table", "The content sent to it, with the token; once."
    ),
    "return": _ask(
        "a look into a table",
        "A file that was sent here to be edited is replaced at its sender; once.",
    ),
    "give": _ask(
        "a look into a table, then a decision",
        "Files that the user pasted or dropped are kept where a rule says so; once.",
    ),
    "call": _ask(
        "a decision, perhaps a question",
        "A program of the target runs, and a stream leads to it, where a rule says so.",
    ),
    "offer": no_descriptors(
        "any program of a container or box",
        "first, once in a connection; one at a time of a sandbox",
        "one of the sandbox's connections of calls",
        "Calls that rules allow are taken by its programs.",
    ),
    "choose": _ask(
        "a decision, perhaps a question; a dialog of the desktop, one at a time",
        "Files that the user chooses are copied to it, or one from it.",
    ),
    "print": _ask(
        "its pages, one document at a time; a decision, perhaps a question",
        "Pages of pixels are printed by the printer of a rule, or the desktop's.",
    ),
    "wait": _reply("before the answer", "Learns that a user or a start is awaited."),
    "go": _reply("after the decision", "Learns that it is permitted."),
    "refused": _reply("last", "Learns the reason, with the rule's place."),
    "progress": _reply("while entries pass", "Learns how fast the target reads."),
    "done": _reply("last", "Learns that it arrived."),
    "delivery": _reply(
        "as the answer to take or choose",
        "The sending sandbox's name, or that the desktop sends.",
    ),
    "called": _reply(
        "after offer, for each call and for its early end",
        "Learns that a call has come; who calls what, its program learns by take.",
    ),
    "service": _reply(
        "as the answer to take", "The calling sandbox's name, and its request."
    ),
}
ENTRIES: Mapping[str, ChannelPolicy] = {
    "dir": _entry("sender, then its worker", "before its entries", "A directory."),
    "file": _entry("sender, then its worker", "its bytes follow", "A plain file."),
    "end": _entry("sender, then its worker", "last, once", "Nothing."),
}
TO_WORKER: Mapping[str, ChannelPolicy] = {
    "transfer-stream": ChannelPolicy(
        _BROKER,
        "for a connection to one of the ports",
        _DECODE,
        "the program's connection; the broker keeps one to cut it",
        "Nothing: its request is read, not yet decided.",
    ),
    "transfer-wait": no_descriptors(
        _BROKER, "before the answer", _DECODE, "Text for the program."
    ),
    "transfer-send": ChannelPolicy(
        _BROKER,
        "after the decision",
        _MOVE,
        "our pipe, to write to",
        "May fill that pipe, within the quota that its reader holds again.",
    ),
    "transfer-deliver": ChannelPolicy(
        _BROKER,
        "after take with the token",
        _MOVE,
        "our pipe, to read from",
        "The content sent to its sandbox.",
    ),
    "transfer-leave": no_descriptors(
        _BROKER,
        "after the decision about a call",
        _DECODE,
        "Nothing: the connection is the pump's, and it closes its own.",
    ),
    "transfer-called": no_descriptors(
        _BROKER,
        "for each call to a container or box, and for its early end",
        _DECODE,
        "A token, which its sandbox's program joins the call by; once.",
    ),
    "transfer-serve": no_descriptors(
        _BROKER,
        "after the decision about an ssh agent, a daemon or pictures of an own window",
        _DECODE,
        "The program learns that it is permitted; each use of a key, each notification "
        "and each icon is decided later.",
    ),
    "stream-tell": no_descriptors(
        _BROKER,
        "after transfer-serve: for each request to an agent or of a program, and each click",
        _DECODE,
        "Public keys that a rule names, one signature that was decided, or what another "
        "sandbox wants signed: the user, the session, the host's key.",
    ),
    "transfer-finish": no_descriptors(
        _BROKER, "last for a connection", _DECODE, "Text for the program."
    ),
}
FROM_WORKER: Mapping[str, ChannelPolicy] = {
    "transfer-asked": no_descriptors(
        _WORKER,
        "once for a connection",
        "checking an address or a name again",
        "Asks in its sandbox's name.",
    ),
    "transfer-moved": no_descriptors(
        _WORKER, "while entries pass", _DECODE, "Claims numbers in an event."
    ),
    "transfer-passed": no_descriptors(
        _WORKER, "once for a connection", _DECODE, "Claims an end; text, escaped."
    ),
    "stream-said": no_descriptors(
        _WORKER,
        "one at a time, SSH_REQUESTS_PER_SECOND or as daemons may; for each stream-tell "
        "to an agent",
        "a decision, perhaps a question; a request to the agent; for a notification or "
        "an icon as below",
        "Asks in its sandbox's name, and claims which keys it has and what they sign. "
        "What is signed is written of these fields.",
    ),
    "transfer-closed": no_descriptors(
        _WORKER, "last for a connection", _DECODE, "Claims byte counts; text, escaped."
    ),
}

"""Rows of the guest agent's messages and of those between broker and worker.

Keys are the messages' own tags.  A worker may have been taken over: its
messages are decoded strictly, and trusted about its sandbox only.
"""

from __future__ import annotations

from collections.abc import Mapping

from docs.tables import desktop as desktop_policies
from docs.tables import transfer as transfer_policies
from docs.tables.channel import ChannelPolicy, no_descriptors

_DECODE = "decoding one bounded message"
_AGENT = "the guest agent, which the guest's root can be"
_BROKER = "the broker"
_WORKER = "this sandbox's worker"
_SEALED = "our sealed file with clean content"


def _claim(when: str, gain: str) -> ChannelPolicy:
    return no_descriptors(_WORKER, when, _DECODE, gain)


def _order(when: str, gain: str, descriptors: str = "none") -> ChannelPolicy:
    return ChannelPolicy(_BROKER, when, _DECODE, descriptors, gain)


AGENT: Mapping[str, ChannelPolicy] = {
    "hello": no_descriptors(
        _AGENT,
        "first, once in a connection",
        _DECODE,
        "Claims which programs still run.",
    ),
    "started": no_descriptors(
        _AGENT, "for a program that was asked for", _DECODE, "Claims that it runs."
    ),
    "failed": no_descriptors(
        _AGENT,
        "for a program that was asked for",
        _DECODE,
        "Text in an error, escaped.",
    ),
    "output": no_descriptors(
        _AGENT,
        "for a program that was asked for",
        "at most AGENT_OUTPUT_BYTES, kept in a bounded log; for a run's client at most "
        "AGENT_OUTPUT_WINDOW, the rest is left out and counted",
        "Text on the terminal of `brokerctl run`, escaped.",
    ),
    "exited": no_descriptors(
        _AGENT, "for a program that was asked for", _DECODE, "Claims an exit code."
    ),
    "taken": no_descriptors(
        _AGENT,
        "for input that was sent to it",
        "a number; the room never becomes more than AGENT_INPUT_WINDOW",
        "Says when more of the user's input may come, for its program.",
    ),
    "hop": no_descriptors(
        _AGENT, "at any time", _DECODE, "Text that names a step that failed, escaped."
    ),
    "mounted": no_descriptors(
        _AGENT,
        "for a folder that it was asked to mount or unmount",
        "one answer for each request, waited for by FOLDER_GUEST_SECONDS at most",
        "Claims that it did so; text in an error or a warning, escaped.",
    ),
    "mount": no_descriptors(
        _BROKER,
        "for a folder that a rule lets it have",
        "a process in the guest",
        "The guest learns the folder's name.",
    ),
    "unmount": no_descriptors(
        _BROKER,
        "for a folder that it was asked to mount",
        "a process in the guest",
        "Nothing.",
    ),
    "run": no_descriptors(
        _BROKER,
        "after hello",
        "a process in the guest",
        "Nothing: the broker starts what the user asked for.",
    ),
    "input": no_descriptors(
        _BROKER,
        "for a program that takes input, within its free window",
        "a bounded write in the guest",
        "The guest learns what the user typed for its program.",
    ),
    "more": no_descriptors(
        _BROKER,
        "for a program whose output is read by a client",
        "a number",
        "The guest learns how fast its output is read.",
    ),
    "resize": no_descriptors(
        _BROKER,
        "for a program with a terminal",
        "one ioctl(2) in the guest",
        "The guest learns the terminal's size.",
    ),
    "signal": no_descriptors(
        _BROKER, "for a program that was asked for", "one kill(2)", "Nothing."
    ),
    "poweroff": no_descriptors(_BROKER, "at any time", "the guest's end", "Nothing."),
    "ping": no_descriptors(
        _BROKER,
        "after hello, every AGENT_PING_SECONDS",
        _DECODE,
        "The guest learns that the broker lives, its time, and how many displays it has.",
    ),
}
"""Tag to row, both directions."""

_TO_WORKER: Mapping[str, ChannelPolicy] = {
    "frames": _order("first, and when rules change", "The rules of its sandbox."),
    "agent-stream": _order(
        "after the decision",
        "Its guest's agent.",
        "the stream, owned by the worker",
    ),
    "wayland-stream": _order(
        "after the decision",
        "Its guest's client.",
        "the connection, owned by the worker",
    ),
    "display-stream": _order(
        "after the decision",
        "Its guest's stream.",
        "the stream; the broker keeps one to cut it, and never reads it",
    ),
    "displays-open": _order(
        "when the number changes",
        "Learns how many of its streams are open or wait for a decision.",
    ),
    "to-agent": _order("while an agent is connected", "What the user asked for."),
    "ask-statistics": _order("at any time", "Learns that it is looked at."),
    "ask-windows": _order("at any time", "Learns that it is looked at."),
    "raise-window": _order(
        "after a click on a notification of the sandbox",
        "Which of its windows comes to the front.",
    ),
    "close-window": _order("at any time", "Learns which of its windows is closed."),
    "stop": _order("last", "Nothing."),
    "sound": _order(
        "before its first sound", "Bounds of what plays and records; no secret."
    ),
    "sound-stream": _order(
        "after the decision",
        "A connection to the sound server, until the stream is cut.",
        "the guest's stream and the connection, owned by the worker",
    ),
    "sound-level": _order("when the user moves the slider", "Learns the volume."),
    "microphone": _order("by a decision", "May hear, or may not any more."),
    "chords": _order("before chords work", "Learns the user's chords."),
    "ask-types": _order("after a copy chord", "Learns that its selection is copied."),
    "read-type": _order("after ask-types", "Learns which type is copied."),
    "stop-read": _order("after read-type", "Nothing."),
    "rewrite": _order(
        "in the target's worker", "Content that is meant for it.", _SEALED
    ),
    "offer": _order("after a decision", "Content that the user pasted to it.", _SEALED),
    "drags": _order("before drags cross", "Learns that drags may cross."),
    "accept-drag": _order("after a decision", "Learns that a drag may be dropped."),
    "end-drag": _order("after a drag", "Nothing."),
    "serve": _order("after a decision", "Content that was dropped on it.", _SEALED),
    "withdraw": _order("after offer or export", "Nothing."),
    "export": _order(
        "after a copy chord and a decision",
        "Content that becomes the desktop's selection.",
        _SEALED,
    ),
}
_FROM_WORKER: Mapping[str, ChannelPolicy] = {
    "ready": _claim("first, once", "Nothing before it is accepted."),
    "from-agent": _claim("for its agent's stream", "What its guest can claim anyway."),
    "agent-closed": _claim("once for a stream", "Claims byte counts; text, escaped."),
    "display-closed": _claim("once for a stream", "Claims byte counts; text, escaped."),
    "wayland-opened": _claim("at any time", "Claims that a window is on its way."),
    "window-mapped": _claim(
        "at any time", "Claims that a window of its sandbox is on the screen."
    ),
    "wayland-answered": _claim("at any time", "Claims that the compositor answered."),
    "wayland-closed": _claim("once for a client", "Claims byte counts; text, escaped."),
    "statistics": _claim("as an answer", "Claims numbers about itself."),
    "windows": _claim("as an answer", "Claims titles of its sandbox, escaped."),
    "window-closed": _claim("as an answer", "Text, escaped."),
    "acted": _claim(
        "at any time", "Claims a gesture: counts where a rule asks for one, for itself."
    ),
    "limited": _claim("at any time", "A notification about its sandbox."),
    "traced": _claim("where tracing is on", "Lines in a log, escaped."),
    "violation": _claim("at any time", "An event about its sandbox."),
    "broken": _claim("last", "An event about its sandbox, text escaped."),
    "sound-closed": _claim("once for a stream", "Claims byte counts; text, escaped."),
    "sound-state": _claim(
        "at any time", "Claims who records: a taken-over one can lie."
    ),
    "sound-refused": _claim("at any time", "Events about its sandbox, counted."),
    "microphone-set": _claim("as an answer", "Claims that the microphone is closed."),
    "clipboard-focus": _claim(
        "at any time", "Claims the keyboard; refused while another sandbox has it."
    ),
    "chord-pressed": _claim("while it has the keyboard", "Asks for a copy or a paste."),
    "chord-trouble": _claim("at any time", "Text in a notification, escaped."),
    "clipboard-types": _claim("as an answer", "Types of its data."),
    "clipboard-data": ChannelPolicy(
        _WORKER,
        "as an answer",
        "a file of the asked size at most",
        "a sealed file of the worker's; the broker passes it on and reads nothing",
        "Its data for the user's paste.",
    ),
    "clipboard-large": _claim("as an answer", "Nothing: nothing is pasted."),
    "clipboard-failed": _claim("as an answer", "Nothing: nothing is pasted."),
    "offer-ended": _claim("after offer", "Claims that the offer is used up."),
    "offer-refused": _claim("after offer", "Nothing."),
    "exported": _claim("after export", "Claims the desktop's selection."),
    "export-ended": _claim("after export", "Claims that it lost it."),
    "foreign-drag": _claim("at any time", "A notification about its sandbox."),
    "drag-started": _claim("after a press", "Claims a drag."),
    "drag-performed": _claim("for its drag", "Claims a drop."),
    "drag-ended": _claim("for its drag", "Nothing."),
    "drag-over": _claim("while a drag crosses", "Asks to be where a drag is dropped."),
    "drag-dropped": _claim("after drag-over", "Asks for the dropped content."),
    "drag-wanted": _claim("for its drag", "Its data for a drop elsewhere."),
}


WORKER: Mapping[str, ChannelPolicy] = {
    **_TO_WORKER,
    **transfer_policies.TO_WORKER,
    **desktop_policies.TO_WORKER,
    **_FROM_WORKER,
    **transfer_policies.FROM_WORKER,
}
"""Tag to row, both directions, with those of keeper and fork server."""

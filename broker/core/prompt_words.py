"""Services in plain words: what a user is asked."""

from __future__ import annotations

from types import MappingProxyType

from broker.core.question import Question, untrusted_word

LINE_CHARACTERS = 64
"""Of a row of a dialog; hosts in lower case fit into it as they are drawn."""
VIEWER = "@adminvm"
VIEWER_NAMES = frozenset({VIEWER, "dom0"})

_WANTS = MappingProxyType(
    {
        "vitrail.Display": "to show windows on this screen",
        "vitrail.Agent": "to report to Vitrail and be given programs to run",
        "vitrail.AudioOutput": "to play sound",
        "vitrail.AudioInput": "to listen to your microphone",
        "vitrail.Camera": "to use your camera",
        "vitrail.ScreenShare": "to see a screen or window that you choose",
        "vitrail.ClipboardPaste": "to give what you copied in it",
        "vitrail.ClipboardCopy": "to put something into your clipboard",
        "vitrail.OpenURL": "to open an address",
        "vitrail.OpenFile": "to have a file opened",
        "vitrail.FileDialog": "to have you choose some of your files",
        "vitrail.Print": "to print",
        "vitrail.FileCopy": "to copy files to another sandbox",
        "vitrail.Call": "to call a service of another sandbox",
        "vitrail.Notification": "to show notifications on your desktop",
        "vitrail.Folder": "to use one of your folders",
        "vitrail.Device": "to use a device of this computer",
        "vitrail.Network": "to reach a host on the network",
        "vitrail.SecurityKey": "to use your security key",
        "vitrail.Secret": "to have a secret",
        "vitrail.Settings": "to follow the looks of your desktop",
        "vitrail.SshAgent": "to use an ssh key",
        "vitrail.Tcp": "to connect to a port",
        "vitrail.Tray": "to show icons in your panel",
    }
)


CHECKED = "vitrail.SshAgent"
"""The service whose details are not the sandbox's claims: the broker has checked the host's
signature, and writes what the key signs."""


def wants(service: str) -> str:
    """Return what a sandbox wants that asks for a service: 'to play sound'."""
    known = _WANTS.get(service)
    return known or f"to use the service {untrusted_word(service)}"


def wrapped(line: str) -> list[str]:
    """A line as rows of a dialog, each with ``LINE_CHARACTERS`` at most."""
    return [
        line[at : at + LINE_CHARACTERS]
        for at in range(0, max(1, len(line)), LINE_CHARACTERS)
    ]


def request_words(question: Question) -> str:
    """What the sandbox wants."""
    return f"wants {question.words}."


def claims(question: Question) -> list[str]:
    """What the sandbox says of its request, and what the broker knows, a line each."""
    lines = [f"argument: {question.argument}"] if question.argument else []
    said = "" if question.service == CHECKED else ", it says"
    return lines + [f"{name}{said}: {value}" for name, value in question.details]


def target_words(target: str) -> str:
    """Return a target as people read it."""
    if target in VIEWER_NAMES:
        return "you, at this screen"
    if target.startswith("@dispvm:"):
        return f"a fresh {target.removeprefix('@dispvm:')} sandbox"
    return target


def duration(seconds: float) -> str:
    """Return '10 minutes'; the largest unit that is whole."""
    whole = round(seconds)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if whole >= size and whole % size == 0:
            return _count(whole // size, unit)
    return _count(whole, "second")


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"

"""What a sandbox wants, in words: the user reads what a permit is for.

The authority words each question from the call that it judges and that its permit binds.
The viewer, which may have been taken over, may add a way of the service and claims about
it: both are of closed sets, and a claim is marked as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from policy.names import ADMIN_NAMES, PIN

if TYPE_CHECKING:
    from policy.rules.engine import PolicyCall

CHOICE = "choice"
"""The way of a question who gets a device; no client may name it."""
CLAIMS = 64
"""Of one request: a type of a paste is a line."""
_WORDS = MappingProxyType(
    {
        "vitrail.Display": "to show windows on this screen",
        "vitrail.Agent": "to report to Vitrail and receive programs to run",
        "vitrail.Audio": "to play sound",
        "vitrail.AudioOutput": "to play sound",
        "vitrail.AudioInput": "to listen to your microphone",
        "vitrail.Camera": "to use your camera",
        "vitrail.ScreenShare": "to see a screen or window that you choose",
        "vitrail.ScreenShare own": "to share one of its own windows",
        "vitrail.ClipboardPaste": "to provide the data that you copied in it",
        "vitrail.ClipboardPaste in": "to receive the data that you copied",
        "vitrail.ClipboardPaste out": "to place what you copied in it on your clipboard",
        "vitrail.ClipboardPaste drag": "to deliver what you dragged to the place where you dropped it",
        "vitrail.ClipboardPaste drag in": "to receive what you dragged from your own programs",
        "vitrail.ClipboardPaste drag out": "to deliver what you dragged to your own programs",
        "vitrail.OpenURL": "to open an address | host, what",
        "vitrail.OpenFile": "to have a file opened",
        "vitrail.OpenFile edit": "to have a file opened for editing; the changes replace it",
        "vitrail.FileDialog": "to ask you to choose some of your files",
        "vitrail.FileDialog open": "to ask you to choose files, which are copied into it",
        "vitrail.FileDialog folder": "to ask you to choose a folder, which is copied into it",
        "vitrail.FileDialog save": "to save a file where you choose",
        "vitrail.Print": "to print",
        "vitrail.Print on": "to print on {about}",
        "vitrail.FileCopy": "to copy files out of it",
        "vitrail.FileCopy in": "to receive files that you dragged from your own programs",
        "vitrail.Call": "to call the service {called}",
        "vitrail.Notification": "to show notifications on your desktop",
        "vitrail.Folder": "to read one of your folders | folder",
        "vitrail.Folder write": "to read and change one of your folders | folder",
        "vitrail.Block": "to read one of your disk images | image",
        "vitrail.Block write": "to read and change one of your disk images | image",
        "vitrail.Device": "to use the USB device {number} | number, port, interfaces",
        "vitrail.Device choice": "to attach the USB device {number} | number, port, interfaces",
        "vitrail.Network": "to reach a host on the network",
        "vitrail.SecurityKey": "to use your security key | relying party",
        "vitrail.SecurityKey register": "to register at {party} with your security key | relying party",
        "vitrail.SecurityKey sign in": "to sign in to {party} with your security key | relying party",
        "vitrail.SecurityKey look": "to check whether your security key is registered at {party} | relying party",
        "vitrail.SecurityKey pin": "to use the PIN of your security key after wrong attempts | none",
        "vitrail.Secret": "to read the secret {name}",
        "vitrail.Settings": "to follow the appearance of your desktop",
        "vitrail.SshAgent": "to use an ssh key | key",
        "vitrail.SshAgent login": "to log in with an ssh key | key, user, host, host key",
        "vitrail.SshAgent sign": "to sign data with an ssh key | key, signed for",
        "vitrail.Tcp": "to connect to port {name}",
        "vitrail.Tcp in": "to accept your connection to its port {name}",
        "vitrail.Tray": "to show icons in your panel",
    }
)
"""By the service and its form: what it wants, and the titles of the lines that follow;
``none``: it has none."""
_STATED = "scheme, host, protocol, port, key"
"""Those of a service without such titles, as far as a request states them."""
_NONE: frozenset[str] = frozenset()
_TOLD: Mapping[str, tuple[frozenset[str], frozenset[str]]] = MappingProxyType(
    {
        "vitrail.ClipboardPaste": (frozenset({"drag"}), frozenset({"type", "size"})),
        "vitrail.OpenFile": (frozenset({"edit"}), frozenset({"what", "size", "type"})),
        "vitrail.FileCopy": (_NONE, frozenset({"what", "size"})),
        "vitrail.Print": (_NONE, frozenset({"document", "pages", "job"})),
        "vitrail.Device": (_NONE, frozenset({"device"})),
        "vitrail.SshAgent": (_NONE, frozenset({"by way of", "known hosts"})),
        "vitrail.SecurityKey": (
            frozenset({"register", "sign in", "look", PIN}),
            frozenset({"wrong PINs"}),
        ),
    }
)
"""By the service: its ways, and the titles of claims about it."""


def is_known(service: str, way: str, titles: Iterable[str]) -> bool:
    """Return whether a service's request may have this way and these titles."""
    ways, claims = _TOLD.get(service, (_NONE, _NONE))
    return way in {"", *ways} and claims.issuperset(titles)


def wording(
    call: PolicyCall, way: str = "", about: str = "", *, write: bool = False
) -> tuple[str, list[tuple[str, str]]]:
    """Return what a sandbox wants, and titles and hostile values of what it is about.

    The other arguments are as of ``authority.permit.Request``.
    """
    name, device = call.argument.removeprefix("+"), call.device
    form = f"{call.service} {_form(call, way, about, write=write)}"
    known = _WORDS.get(form) or _WORDS.get(call.service)
    phrase, _, titles = (known or _WORDS["vitrail.Call"]).partition(" | ")
    if call.service == "vitrail.SshAgent" and call.target not in {"", *ADMIN_NAMES}:
        phrase += " of {target}"
    values = {
        "scheme": call.scheme or "",
        "host": call.host or ("not known" if "host key" in titles else ""),
        "protocol": call.protocol or "",
        "port": str(call.port or ""),
        "key": call.key or "",
        **dict.fromkeys(("host key", "folder", "image", "what"), about),
        **dict.fromkeys(("user", "signed for"), name.partition(".")[2]),
        "relying party": party(call.host or "", about) if call.host or about else "",
    }
    if device is not None:
        interfaces = " ".join(str(one) for one in device.interfaces[:16])
        values |= {"number": device.id, "port": device.port, "interfaces": interfaces}
    phrase = phrase.format(
        name=_joined(name),
        about=_joined(about),
        called=_joined(name.partition("+")[0] if known else call.service),
        number=_joined("" if device is None else device.id),
        party=party(call.host or "", about),
        target=_joined(call.target),
    )
    lines = [
        (title, values.get(title, "")) for title in (titles or _STATED).split(", ")
    ]
    return phrase, [line for line in lines if line[1]]


def remembered(call: PolicyCall, way: str = "") -> str:
    """Return what a remembered yes is for; empty if the question shows all of that.

    A grant has no claims, sizes or contents (``authority.questions.subject``), and of an
    address its host alone.
    """
    match call.service:
        case "vitrail.OpenURL":
            return "every address of this host" if call.host else "this address"
        case "vitrail.OpenFile":
            return "every file of this type" if call.mime else "every file"
        case "vitrail.FileCopy":
            return "every file"
        case "vitrail.Print":
            return "every document"
        case "vitrail.ClipboardPaste":
            return f"everything that you {way or 'copy'}"
        case _:
            return ""


def party(host: str, digest: str) -> str:
    """Return a relying party, known by its name or by the hash of it."""
    known = f"a service known only by its hash ({_joined(digest[:16])}...)"
    return _joined(host) or known


def key_words(way: str, host: str, digest: str) -> str:
    """Return the words for one use of a security key."""
    words = _WORDS[f"vitrail.SecurityKey {way}"].partition(" | ")[0]
    return words.format(party=party(host, digest))


def _form(call: PolicyCall, way: str, about: str, *, write: bool) -> str:
    """Return which of a service's forms a call has."""
    name = call.argument.removeprefix("+")
    match call.service:
        case "vitrail.ClipboardPaste" | "vitrail.Tcp" | "vitrail.FileCopy":
            inward, outward = call.source in ADMIN_NAMES, call.target in ADMIN_NAMES
            side = "in" if inward else "out" if outward else ""
            return f"{way} {side}".strip()
        case "vitrail.SshAgent":
            return name.partition(".")[0]
        case "vitrail.Print":
            return "on" if about else ""
        case "vitrail.Folder" | "vitrail.Block":
            return "write" if write else ""
        case "vitrail.FileDialog" | "vitrail.ScreenShare":
            return name
        case _:
            return way


def _joined(untrusted_value: str) -> str:
    """Return a value as one word of a sentence, which it cannot continue."""
    # guard: a name in a sentence does not continue it
    return untrusted_value.replace(" ", "\\x20")

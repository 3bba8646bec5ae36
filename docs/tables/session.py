"""The rows of orders of the viewer to children of the starter (``ipc.session``)."""

from __future__ import annotations

from collections.abc import Mapping

from docs.tables.channel import ChannelPolicy, no_descriptors

_CHILD = "one of the starter's 250 children; decoding one message of MESSAGE_BYTES"
_ANYTHING = "at any time, without a warrant"
_NEXT = "on the channel of an order before it"


def _order(when: str, gain: str, descriptors: str = "none") -> ChannelPolicy:
    return ChannelPolicy("the viewer", when, _CHILD, descriptors, gain)


def _permit(service: str, what: str = "") -> str:
    return f"within a minute of a permit for {service}{what}, once"


ORDERS: Mapping[str, ChannelPolicy] = {
    "connect-bus": _order(
        f"{_ANYTHING}; for screens {_permit('vitrail.ScreenShare')}",
        "Notifications, an icon in the panel, and the desktop's settings, by a filter.",
    ),
    "hold-permit": _order(
        f"{_NEXT}, with the permit's warrant, renewed",
        "Screens, a camera, a security key while their permit is live, and a minute more.",
    ),
    "open-address": _order(
        f"{_permit('vitrail.OpenURL', ' and this address')}, or of a call of "
        "brokerctl for this address",
        "The address once more, in the user's browser.",
    ),
    "find-named-files": _order(
        "within a minute of a call of brokerctl that names them, once",
        "A ticket for files that the user has named; their names and number.",
        "the call's warrant, in memory",
    ),
    "find-dropped-files": _order(
        _ANYTHING,
        "Names of files that the user has dropped, by a key of the document portal, which "
        "is good once; a ticket that is good with a permit only.",
    ),
    "choose-on-desktop": _order(
        _permit("vitrail.FileDialog"),
        "The desktop's dialog, titled with the permit's sandbox.",
    ),
    "send-files": _order(
        "with a ticket to send, once, within half an hour; for dropped files also a "
        "permit for vitrail.FileCopy from the user to their sandbox",
        "The files of the ticket, which the user has named, chosen or dropped.",
        "the ticket, in memory, and the pipe for their entries",
    ),
    "edit-file": _order(
        "with a ticket to edit, once, within half an hour",
        "Content of the file that the user edits in a sandbox.",
        "the ticket, in memory, and two pipes",
    ),
    "save-file": _order(
        "with a ticket to save",
        "Content of the file that the user has chosen, as it was when chosen.",
        "the ticket, in memory, and the pipe with its entry",
    ),
    "store-files": _order(
        _permit("vitrail.FileCopy"),
        "Files in `~/Incoming/SANDBOX`, as that sandbox.",
        "the pipe with their entries",
    ),
    "keep-pages": _order(
        _ANYTHING,
        "A document of pixels, in a directory of the child's.",
        "the pipe with its pages",
    ),
    "find-usual-printer": _order(_ANYTHING, "The name of the usual printer."),
    "print-document": _order(
        _permit("vitrail.Print", " on this printer, and the rule's"),
        "Other pages than the user has seen, on that printer.",
    ),
    "open-folder": _order(
        "within a minute of a call of brokerctl that names it, or for a folder or disk of a record",
        "Nothing: the child keeps it.",
    ),
    "give-folder": _order(
        f"{_permit('vitrail.Folder')}, or `vitrail.Block` for a disk, {_NEXT}",
        "A folder or disk that is permitted to that sandbox, for longer than the permission.",
    ),
    "serve-folder": _order(
        f"{_NEXT}, without a host on this machine",
        "What a sandbox does with a folder that it has.",
        "the sandbox's connection",
    ),
    "read-chords": _order(_ANYTHING, "The chords of copy and paste."),
    "check-settings": _order(_ANYTHING, "Which settings files have mistakes."),
    "draw-icons": _order(_ANYTHING, "Nothing: they are drawn by the records."),
    "draw-letters": _order(_ANYTHING, "The letters of the user's font."),
    "connect-sound": _order(
        _permit("vitrail.Audio"), "The sound server, as a sandbox without a filter."
    ),
    "find-camera": _order(_permit("vitrail.Camera"), "The camera's name."),
    "take-camera": _order(
        _permit("vitrail.Camera"), "Pictures of a camera, when one was permitted."
    ),
    "take-screen": _order(
        "with a descriptor that the desktop's dialog gave",
        "Nothing: it has what the descriptor shows.",
        "the connection to PipeWire of the portal",
    ),
    "open-security-key": _order(
        _permit("vitrail.SecurityKey"),
        "Nothing: the child passes on a yes to a use of the key with its permit, once.",
        "the guest's connection, and the socket of its questions",
    ),
    "show-banner": _order(
        _ANYTHING, "Names of sandboxes and of what they use, above all windows."
    ),
    "show-frame": _order(_ANYTHING, "A coloured frame around a screen."),
    "start-fork-server": _order(
        _ANYTHING,
        "Confined processes, until there are 250.",
        "its client's socket, and its standard error",
    ),
    "report-state": _order(
        _ANYTHING, "The service manager takes the broker for ready, or for ending."
    ),
    "find-compositor": _order(_ANYTHING, "The path of the compositor's socket."),
    "measure-processes": _order(_ANYTHING, "The memory of the broker's processes."),
    "connect-port": _order(
        _permit("vitrail.Tcp", " and this port"),
        "A connection to a port that was permitted.",
    ),
    "listen-port": _order(
        "within a minute of a call of `brokerctl forward` for this port",
        "A port number that no other program of the user's can have meanwhile.",
    ),
    "accept-connection": _order(
        f"{_NEXT}, one at a time",
        "What the user's programs send to a port that the user forwards.",
    ),
    "ask-secret": _order(
        _permit("vitrail.Secret", " and this name"), "A secret that was permitted."
    ),
    "start-service": _order(
        _permit("that service"),
        "A call of a service that was permitted.",
    ),
    "serve-now": _order(f"{_NEXT}, when there is a place", "As start-service."),
    "use-agent": _order(_permit("vitrail.SshAgent"), "Names and comments of keys."),
    "ask-agent": _order(
        f"{_NEXT}; to sign, {_permit('this use of the key')}",
        "A use of a key that was permitted.",
    ),
    "name-host": _order(_NEXT, "Names of a host of whose key it has the bytes."),
    "done": ChannelPolicy(
        "a session child",
        "as an answer",
        "decoding one message of MESSAGE_BYTES",
        "as the order says, the viewer's",
        "It has the user's rights.",
    ),
    "failed": no_descriptors(
        "a session child",
        "as an answer",
        "decoding one message of MESSAGE_BYTES",
        "It has the user's rights.",
    ),
}

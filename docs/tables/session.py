"""The rows of orders of the viewer to children of the starter (``ipc.session``)."""

from __future__ import annotations

from collections.abc import Mapping

from docs.tables.channel import ChannelPolicy, no_descriptors

_CHILD = "one of the starter's 250 children; decoding one message of MESSAGE_BYTES"
_ANYTHING = "at any time, without a warrant"
_NEXT = "on the channel of an order before it"
_ANSWER = (
    "a session child",
    "as an answer, or before it",
    "decoding one message of MESSAGE_BYTES",
    "It has the user's rights.",
)


def _order(when: str, gain: str, descriptors: str = "none") -> ChannelPolicy:
    return ChannelPolicy("the viewer", when, _CHILD, descriptors, gain)


def _permit(service: str, what: str = "") -> str:
    return f"within a minute of a permit for {service}{what}, once"


ORDERS: Mapping[str, ChannelPolicy] = {
    "ConnectBus": _order(
        _ANYTHING,
        "Notifications, an icon in the panel, and the desktop's settings, by a filter.",
    ),
    "ConnectScreens": _order(
        _permit("vitrail.ScreenShare"),
        "The desktop's dialog about screens, by a filter.",
    ),
    "HoldPermit": _order(
        f"{_NEXT}, with the permit's warrant, renewed",
        "Screens, a camera, a security key while their permit is live, and a minute more.",
    ),
    "OpenAddress": _order(
        _permit("vitrail.OpenURL", " and this address"),
        "The address once more, in the user's browser.",
    ),
    "OpenNamedAddress": _order(
        "within a minute of a call of brokerctl for this address, once",
        "The address once more, in the user's browser.",
    ),
    "FindNamedFiles": _order(
        "within a minute of a call of brokerctl that names them, once",
        "A ticket for files that the user has named; their names and number.",
        "the call's warrant, in memory",
    ),
    "FindDroppedFiles": _order(
        _ANYTHING,
        "Names of files that the user has dropped, by a key of the document portal, which "
        "is good once; a ticket that is good with a permit only.",
    ),
    "ChooseOnDesktop": _order(
        _permit("vitrail.FileDialog"),
        "The desktop's dialog, titled with the permit's sandbox.",
    ),
    "SendFiles": _order(
        "with a ticket to send, once, within half an hour",
        "The files of the ticket, which the user has named or chosen.",
        "the ticket, in memory, and the pipe for their entries",
    ),
    "SendDroppedFiles": _order(
        f"with a ticket to drop, within half an hour, and {_permit('vitrail.FileCopy')}, "
        "from the user to their sandbox",
        "The files of the ticket, which the user has dropped.",
        "the ticket, in memory, and the pipe for their entries",
    ),
    "EditFile": _order(
        "with a ticket to edit, once, within half an hour",
        "Content of the file that the user edits in a sandbox.",
        "the ticket, in memory, and two pipes",
    ),
    "SaveFile": _order(
        "with a ticket to save",
        "Content of the file that the user has chosen, as it was when chosen.",
        "the ticket, in memory, and the pipe with its entry",
    ),
    "StoreFiles": _order(
        _permit("vitrail.FileCopy"),
        "Files in `~/Incoming/SANDBOX`, as that sandbox.",
        "the pipe with their entries",
    ),
    "KeepPages": _order(
        _ANYTHING,
        "A document of pixels, in a directory of the child's.",
        "the pipe with its pages",
    ),
    "FindUsualPrinter": _order(_ANYTHING, "The name of the usual printer."),
    "PrintDocument": _order(
        _permit("vitrail.Print", " on this printer, and the rule's"),
        "Other pages than the user has seen, on that printer.",
    ),
    "OpenFolder": _order(
        "within a minute of a call of brokerctl that names it, once",
        "Nothing: the child keeps it.",
    ),
    "OpenRecordFolder": _order(
        "at any time, for a folder or disk of a record",
        "Nothing: the child keeps it.",
    ),
    "GiveFolder": _order(
        f"{_permit('vitrail.Folder')}, or `vitrail.Block` for a disk, {_NEXT}",
        "A folder or disk that is permitted to that sandbox, for longer than the permission.",
    ),
    "ServeFolder": _order(
        f"{_NEXT}, without a host on this machine",
        "What a sandbox does with a folder that it has.",
        "the sandbox's connection",
    ),
    "ReadChords": _order(_ANYTHING, "The chords of copy and paste."),
    "CheckSettings": _order(_ANYTHING, "Which settings files have mistakes."),
    "DrawIcons": _order(_ANYTHING, "Nothing: they are drawn by the records."),
    "DrawLetters": _order(_ANYTHING, "The letters of the user's font."),
    "ConnectSound": _order(
        _permit("vitrail.Audio"), "The sound server, as a sandbox without a filter."
    ),
    "FindCamera": _order(_permit("vitrail.Camera"), "The camera's name."),
    "TakeCamera": _order(
        _permit("vitrail.Camera"), "Pictures of a camera, when one was permitted."
    ),
    "TakeScreen": _order(
        "with a descriptor that the desktop's dialog gave",
        "Nothing: it has what the descriptor shows.",
        "the connection to PipeWire of the portal",
    ),
    "OpenSecurityKey": _order(
        _permit("vitrail.SecurityKey"),
        "Nothing: the child passes on a yes to a use of the key with its permit, once.",
        "the guest's connection, and the socket of its questions",
    ),
    "ShowBanner": _order(
        _ANYTHING, "Names of sandboxes and of what they use, above all windows."
    ),
    "ShowFrame": _order(_ANYTHING, "A coloured frame around a screen."),
    "StartForkServer": _order(
        _ANYTHING,
        "Confined processes, until there are 250.",
        "its client's socket, and its standard error",
    ),
    "ReportState": _order(
        _ANYTHING, "The service manager takes the broker for ready, or for ending."
    ),
    "FindCompositor": _order(_ANYTHING, "The path of the compositor's socket."),
    "MeasureProcesses": _order(_ANYTHING, "The memory of the broker's processes."),
    "ConnectPort": _order(
        _permit("vitrail.Tcp", " and this port"),
        "A connection to a port that was permitted.",
    ),
    "ListenPort": _order(
        "within a minute of a call of `brokerctl forward` for this port",
        "A port number that no other program of the user's can have meanwhile.",
    ),
    "AcceptConnection": _order(
        f"{_NEXT}, one at a time",
        "What the user's programs send to a port that the user forwards.",
    ),
    "AskSecret": _order(
        _permit("vitrail.Secret", " and this name"), "A secret that was permitted."
    ),
    "StartService": _order(
        _permit("that service"),
        "A call of a service that was permitted.",
    ),
    "ServeNow": _order(f"{_NEXT}, when there is a place", "As StartService."),
    "UseAgent": _order(_permit("vitrail.SshAgent"), "Names and comments of keys."),
    "AskAgent": _order(_NEXT, "Names and comments of keys."),
    "SignByAgent": _order(
        f"{_permit('this use of the key')}, {_NEXT}",
        "A use of a key that was permitted.",
    ),
    "NameHost": _order(_NEXT, "Names of a host of whose key it has the bytes."),
    "ItemMessage": no_descriptors(*_ANSWER),
    "AnswerMessage": ChannelPolicy(
        *_ANSWER[:3], "as the order says, the viewer's", _ANSWER[3]
    ),
    "ErrorMessage": no_descriptors(*_ANSWER),
}

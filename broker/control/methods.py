"""The table of methods: name on the wire, types, and what of the broker answers.

One row for each method of ``io.vitrail.Broker``.  The server dispatches by it, the
clients call by it, a role refuses by it (``services/control.py``), and
``broker.control.describe`` writes the interface description from it.  A name that is
not in the table is answered with the protocol's own error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from broker import __version__
from broker.control import api, varlink
from broker.control.api import INTERFACE, BrokerApi, Caller, Nothing
from broker.control.varlink import SERVICE, VarlinkError
from broker.core.errors import InternalError, RefusedError

_Request = TypeVar("_Request", bound=msgspec.Struct)
_Answer = TypeVar("_Answer", bound=msgspec.Struct)


@dataclass(frozen=True)
class Method(Generic[_Request, _Answer]):
    """A row of the table."""

    name: str
    """Without the interface."""
    request: type[_Request]
    answer: type[_Answer]
    handler: str
    """The method of ``BrokerApi`` that answers; arguments go by parameter name."""
    waits: bool = False
    """Whether it may take as long as a machine or a person; else a client gives up."""
    paced: bool = False
    """Whether a client may take its items as slowly as it likes: they come as fast
    as it reads, and end when it hangs up."""
    dropped: bool = False
    """Whether a call is of no use once its client has gone, and a sandbox can make
    it last: it ends then."""
    parameters: tuple[str, ...] = field(init=False)
    """Those of the handler: some of ``caller``, ``request`` and ``emit``."""

    def __post_init__(self) -> None:
        """Read the handler's parameters.  Raises AttributeError when there is none."""
        # Not inspect.signature: that takes 5 ms for the table, in each brokerctl.
        code = getattr(BrokerApi, self.handler).__code__
        names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        object.__setattr__(self, "parameters", names)


@dataclass(frozen=True)
class Elsewhere:
    """Why a role does not answer a method, and where it is answered."""

    message: str
    hint: str
    """May name fields of the request: ``{request.record}``."""


class RoleControl(Protocol):
    """The methods of the control socket: ``BrokerApi``, or a role's part of it.

    Each method of the table has its handler here or a row in ``elsewhere``;
    ``serve`` looks before it begins.
    """

    @property
    def elsewhere(self) -> Mapping[str, Elsewhere]:
        """Reasons of the methods that this role does not answer, by their name."""
        ...


@dataclass(frozen=True)
class Exchange:
    """One call in progress: the role's control, the caller, and the receiver."""

    api: RoleControl
    caller: Caller
    more: bool
    emit: Callable[[msgspec.Struct], Awaitable[None]]
    """Sends an item; does nothing unless ``more``."""


GET_VERSION = Method("GetVersion", Nothing, api.Version, "version")
RUN = Method("Run", api.RunRequest, api.RunItem, "run", waits=True, paced=True)
OPEN = Method("Open", api.OpenRequest, api.OpenItem, "open_objects", waits=True)
RUN_INPUT = Method(
    "RunInput", api.RunInputRequest, Nothing, "run_input", waits=True, dropped=True
)
RUN_RESIZE = Method("RunResize", api.RunResizeRequest, Nothing, "run_resize")
STOP = Method("Stop", api.StopRequest, api.StopAnswer, "stop", waits=True)
SHUTDOWN = Method("Shutdown", Nothing, Nothing, "shutdown")
STATUS = Method("Status", Nothing, api.Status, "status")
WINDOWS = Method("Windows", api.WindowsRequest, api.WindowsAnswer, "windows")
WINDOW_CLOSE = Method("WindowClose", api.WindowCloseRequest, Nothing, "close_window")
LEASE_ACQUIRE = Method("LeaseAcquire", api.LeaseRequest, api.LeaseItem, "lease")
MACHINE_EVENT = Method(
    "MachineEvent",
    api.MachineEventRequest,
    api.MachineEventAnswer,
    "machine_event",
    waits=True,
)
LEASE_LIST = Method("LeaseList", Nothing, api.LeaseListAnswer, "leases")
LEASE_RELEASE = Method("LeaseRelease", api.LeaseReleaseRequest, Nothing, "release")
LAUNCH_PREPARE = Method(
    "LaunchPrepare", api.LaunchPrepareRequest, api.LaunchAnswer, "prepare_launch"
)
LAUNCH_BOX = Method(
    "LaunchBox", api.LaunchBoxRequest, api.LaunchBoxAnswer, "box_of_record"
)
LAUNCH_BIND = Method("LaunchBind", api.LaunchBindRequest, api.LeaseItem, "bind_launch")
LAUNCH_END = Method("LaunchEnd", api.LaunchEndRequest, Nothing, "end_launch")
AUDIT_PRUNE = Method(
    "AuditPrune", api.AuditPruneRequest, api.AuditPruneAnswer, "prune", waits=True
)
PENDING = Method("Pending", Nothing, api.PendingAnswer, "pending")
ANSWER = Method("Answer", api.QuestionAnswerRequest, Nothing, "answer")
GRANT_LIST = Method("GrantList", Nothing, api.GrantsAnswer, "grants")
GRANT_REVOKE = Method("GrantRevoke", api.GrantRevokeRequest, api.GrantsAnswer, "revoke")
CLIPBOARD = Method("Clipboard", Nothing, api.ClipboardStatus, "clipboard")
CLIPBOARD_CLEAR = Method("ClipboardClear", Nothing, Nothing, "clear_clipboard")
CLIPBOARD_CHORDS = Method(
    "ClipboardChords", Nothing, api.ClipboardStatus, "choose_chords"
)
DEVICES = Method("Devices", Nothing, api.DevicesAnswer, "devices")
DEVICE_ATTACH = Method(
    "DeviceAttach", api.DeviceAttachRequest, api.DeviceAnswer, "attach_device"
)
DEVICE_DETACH = Method(
    "DeviceDetach", api.DeviceDetachRequest, api.DeviceAnswer, "detach_device"
)
FOLDERS = Method("Folders", Nothing, api.FoldersAnswer, "folders")
FOLDER_SHARE = Method(
    "FolderShare", api.FolderShareRequest, api.FolderAnswer, "share_folder"
)
FOLDER_UNSHARE = Method(
    "FolderUnshare", api.FolderUnshareRequest, api.FolderAnswer, "unshare_folder"
)

TABLE: Mapping[str, Method[Any, Any]] = MappingProxyType(
    {row.name: row for row in list(globals().values()) if isinstance(row, Method)}
)
"""All rows by their name, in the order above."""


def check_complete(api: RoleControl) -> None:
    """Raise InternalError unless each method is answered or refused, and not both."""
    for name, row in TABLE.items():
        if hasattr(api, row.handler) is (name in api.elsewhere):
            raise InternalError(
                f"{type(api).__name__} must either answer {name} or refuse it"
            )
    unknown = set(api.elsewhere) - set(TABLE)
    if unknown:
        raise InternalError(f"there is no method {min(unknown)}")


async def perform(
    row: Method[_Request, _Answer], exchange: Exchange, request: _Request
) -> _Answer:
    """Have a role answer a call.  Raises RefusedError where another role does."""
    elsewhere = exchange.api.elsewhere.get(row.name)
    if elsewhere is not None:
        raise RefusedError(
            elsewhere.message, hint=elsewhere.hint.format(request=request)
        )
    given = {"caller": exchange.caller, "request": request, "emit": exchange.emit}
    handler = getattr(exchange.api, row.handler)
    answer = await handler(*(given[name] for name in row.parameters))
    return cast("_Answer", Nothing() if answer is None else answer)


# -- methods with more to them than their row ------------------------------------------


async def _status(exchange: Exchange, request: Nothing) -> api.Status:
    # Late: no other call needs it.
    from broker.control.fitting import fit_status

    return fit_status(await perform(STATUS, exchange, request))


async def _windows(
    exchange: Exchange, request: api.WindowsRequest
) -> api.WindowsAnswer:
    from broker.control.fitting import fit_windows

    return fit_windows(await perform(WINDOWS, exchange, request))


async def _lease(exchange: Exchange, request: api.LeaseRequest) -> api.LeaseItem:
    if not exchange.more and request.leader is None:
        raise RefusedError(
            "a lease needs something to live as long as",
            hint="name the leader's pid, or call with 'more' and stay connected",
        )
    ways = (request.hybrid, request.cid, request.unix)
    if sum(way is not None for way in ways) != 1:
        raise RefusedError(
            "a lease needs one way to recognise its peer",
            hint="give exactly one of hybrid, cid and unix",
        )
    return await perform(
        _LEASE_HOLD if exchange.more else LEASE_ACQUIRE, exchange, request
    )


_LEASE_HOLD = Method("LeaseAcquire", api.LeaseRequest, api.LeaseItem, "hold_lease")
"""The same with 'more'; no row of its own."""


# -- the protocol's own interface ---------------------------------------------------------


class Info(msgspec.Struct, frozen=True):
    """Answer of ``org.varlink.service.GetInfo``."""

    vendor: str
    product: str
    version: str
    url: str
    interfaces: list[str]


class _DescriptionRequest(msgspec.Struct, frozen=True):
    interface: str


class _Description(msgspec.Struct, frozen=True):
    description: str


def interface_description() -> str:
    """The text of ``io.vitrail.Broker.varlink``."""
    return _interface_file(INTERFACE)


def _interface_file(interface: str) -> str:
    # Late: it brings tempfile and random with it, and every verb loads this module.
    from importlib import resources

    data = resources.files("broker") / "data" / f"{interface}.varlink"
    return data.read_text(encoding="utf-8")


async def _info(exchange: Exchange, request: Nothing) -> Info:
    del exchange, request
    return Info("Vitrail", "Vitrail broker", __version__, "", [SERVICE, INTERFACE])


async def _description(
    exchange: Exchange, request: _DescriptionRequest
) -> _Description:
    del exchange
    if request.interface == INTERFACE:
        return _Description(interface_description())
    if request.interface == SERVICE:
        return _Description(_interface_file(SERVICE))
    raise VarlinkError("InterfaceNotFound", interface=request.interface)


# -- dispatch -------------------------------------------------------------------------

Call = Callable[[Exchange, msgspec.Raw], Awaitable[msgspec.Struct]]


def _taking(
    request: type[_Request],
    handle: Callable[[Exchange, _Request], Awaitable[msgspec.Struct]],
) -> Call:
    async def run(exchange: Exchange, parameters: msgspec.Raw) -> msgspec.Struct:
        return await handle(exchange, varlink.decode_parameters(parameters, request))

    return run


def _by_row(row: Method[Any, Any]) -> Call:
    return _taking(row.request, partial(perform, row))


METHODS: Mapping[str, Call] = MappingProxyType(
    {
        **{f"{INTERFACE}.{name}": _by_row(row) for name, row in TABLE.items()},
        f"{INTERFACE}.Status": _taking(Nothing, _status),
        f"{INTERFACE}.Windows": _taking(api.WindowsRequest, _windows),
        f"{INTERFACE}.LeaseAcquire": _taking(api.LeaseRequest, _lease),
        f"{SERVICE}.GetInfo": _taking(Nothing, _info),
        f"{SERVICE}.GetInterfaceDescription": _taking(
            _DescriptionRequest, _description
        ),
    }
)


PACED: frozenset[str] = frozenset(
    f"{INTERFACE}.{row.name}" for row in TABLE.values() if row.paced
)
"""Methods whose items wait for a client that does not read."""

DROPPED = frozenset(f"{INTERFACE}.{row.name}" for row in TABLE.values() if row.dropped)
"""Methods whose calls end soon after their client has gone."""

ENDING = f"{INTERFACE}.{SHUTDOWN.name}"
"""The method whose effect ends the connection on which it is to be answered."""


def find_method(name: str) -> Call:
    """Return a method.  Raises VarlinkError for an unknown one."""
    method = METHODS.get(name)
    if method is not None:
        return method
    interface, _, _word = name.rpartition(".")
    if interface in {SERVICE, INTERFACE}:
        raise VarlinkError("MethodNotFound", method=name)
    raise VarlinkError("InterfaceNotFound", interface=interface)

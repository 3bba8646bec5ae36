"""The table of methods: name on the wire, type of the request, handler.

A name that is not in the table is answered with the protocol's own error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import TypeVar

import msgspec

from broker import __version__
from broker.control import varlink
from broker.control.api import (
    INTERFACE,
    AuditPruneAnswer,
    AuditPruneRequest,
    BrokerApi,
    Caller,
    ClipboardStatus,
    DeviceAnswer,
    DeviceAttachRequest,
    DeviceDetachRequest,
    DevicesAnswer,
    GrantRevokeRequest,
    GrantsAnswer,
    LaunchAnswer,
    LaunchBindRequest,
    LaunchEndRequest,
    LaunchPrepareRequest,
    LeaseItem,
    LeaseListAnswer,
    LeaseReleaseRequest,
    LeaseRequest,
    Nothing,
    OpenItem,
    OpenRequest,
    PendingAnswer,
    QuestionAnswerRequest,
    RunInputRequest,
    RunItem,
    RunRequest,
    RunResizeRequest,
    Status,
    StopAnswer,
    StopRequest,
    Version,
    WindowCloseRequest,
    WindowsAnswer,
    WindowsRequest,
)
from broker.control.fitting import fit_status
from broker.control.varlink import SERVICE, VarlinkError
from broker.core.errors import RefusedError


@dataclass(frozen=True)
class Exchange:
    """One call on its way: who asks whom, and where items go."""

    api: BrokerApi
    caller: Caller
    more: bool
    emit: Callable[[msgspec.Struct], Awaitable[None]]
    """Sends an item; does nothing unless ``more``."""


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


_Request = TypeVar("_Request", bound=msgspec.Struct)
Method = Callable[[Exchange, msgspec.Raw], Awaitable[msgspec.Struct]]


def _taking(
    request: type[_Request],
    handle: Callable[[Exchange, _Request], Awaitable[msgspec.Struct]],
) -> Method:
    async def run(exchange: Exchange, parameters: msgspec.Raw) -> msgspec.Struct:
        return await handle(exchange, varlink.decode_parameters(parameters, request))

    return run


def interface_description() -> str:
    """The text of ``io.vitrail.Broker.varlink``."""
    data = resources.files("broker") / "data" / f"{INTERFACE}.varlink"
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
        data = resources.files("broker") / "data" / f"{SERVICE}.varlink"
        return _Description(data.read_text(encoding="utf-8"))
    raise VarlinkError("InterfaceNotFound", interface=request.interface)


async def _version(exchange: Exchange, request: Nothing) -> Version:
    del request
    return await exchange.api.version()


async def _run(exchange: Exchange, request: RunRequest) -> RunItem:
    return await exchange.api.run(exchange.caller, request, exchange.emit)


async def _open(exchange: Exchange, request: OpenRequest) -> OpenItem:
    return await exchange.api.open_objects(exchange.caller, request, exchange.emit)


async def _run_input(exchange: Exchange, request: RunInputRequest) -> Nothing:
    await exchange.api.run_input(exchange.caller, request)
    return Nothing()


async def _run_resize(exchange: Exchange, request: RunResizeRequest) -> Nothing:
    await exchange.api.run_resize(exchange.caller, request)
    return Nothing()


async def _stop(exchange: Exchange, request: StopRequest) -> StopAnswer:
    return await exchange.api.stop(exchange.caller, request)


async def _shutdown(exchange: Exchange, request: Nothing) -> Nothing:
    await exchange.api.shutdown(exchange.caller)
    return request


async def _status(exchange: Exchange, request: Nothing) -> Status:
    del request
    return fit_status(await exchange.api.status())


async def _windows(exchange: Exchange, request: WindowsRequest) -> WindowsAnswer:
    return await exchange.api.windows(request)


async def _close_window(exchange: Exchange, request: WindowCloseRequest) -> Nothing:
    await exchange.api.close_window(exchange.caller, request)
    return Nothing()


async def _lease(exchange: Exchange, request: LeaseRequest) -> LeaseItem:
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
    if exchange.more:
        return await exchange.api.hold_lease(exchange.caller, request, exchange.emit)
    return await exchange.api.lease(exchange.caller, request)


async def _prepare_launch(
    exchange: Exchange, request: LaunchPrepareRequest
) -> LaunchAnswer:
    return await exchange.api.prepare_launch(exchange.caller, request)


async def _bind_launch(exchange: Exchange, request: LaunchBindRequest) -> LeaseItem:
    return await exchange.api.bind_launch(exchange.caller, request)


async def _end_launch(exchange: Exchange, request: LaunchEndRequest) -> Nothing:
    await exchange.api.end_launch(exchange.caller, request)
    return Nothing()


async def _leases(exchange: Exchange, request: Nothing) -> LeaseListAnswer:
    del request
    return await exchange.api.leases()


async def _release(exchange: Exchange, request: LeaseReleaseRequest) -> Nothing:
    await exchange.api.release(exchange.caller, request)
    return Nothing()


async def _prune(exchange: Exchange, request: AuditPruneRequest) -> AuditPruneAnswer:
    return await exchange.api.prune(exchange.caller, request)


async def _pending(exchange: Exchange, request: Nothing) -> PendingAnswer:
    del request
    return await exchange.api.pending()


async def _answer(exchange: Exchange, request: QuestionAnswerRequest) -> Nothing:
    await exchange.api.answer(exchange.caller, request)
    return Nothing()


async def _grants(exchange: Exchange, request: Nothing) -> GrantsAnswer:
    del request
    return await exchange.api.grants()


async def _revoke(exchange: Exchange, request: GrantRevokeRequest) -> GrantsAnswer:
    return await exchange.api.revoke(exchange.caller, request)


async def _clipboard(exchange: Exchange, request: Nothing) -> ClipboardStatus:
    del request
    return await exchange.api.clipboard()


async def _clear_clipboard(exchange: Exchange, request: Nothing) -> Nothing:
    await exchange.api.clear_clipboard(exchange.caller)
    return request


async def _choose_chords(exchange: Exchange, request: Nothing) -> ClipboardStatus:
    del request
    return await exchange.api.choose_chords(exchange.caller)


async def _devices(exchange: Exchange, request: Nothing) -> DevicesAnswer:
    del request
    return await exchange.api.devices()


async def _attach_device(
    exchange: Exchange, request: DeviceAttachRequest
) -> DeviceAnswer:
    return await exchange.api.attach_device(exchange.caller, request)


async def _detach_device(
    exchange: Exchange, request: DeviceDetachRequest
) -> DeviceAnswer:
    return await exchange.api.detach_device(exchange.caller, request)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        f"{SERVICE}.GetInfo": _taking(Nothing, _info),
        f"{SERVICE}.GetInterfaceDescription": _taking(
            _DescriptionRequest, _description
        ),
        f"{INTERFACE}.GetVersion": _taking(Nothing, _version),
        f"{INTERFACE}.Run": _taking(RunRequest, _run),
        f"{INTERFACE}.Open": _taking(OpenRequest, _open),
        f"{INTERFACE}.RunInput": _taking(RunInputRequest, _run_input),
        f"{INTERFACE}.RunResize": _taking(RunResizeRequest, _run_resize),
        f"{INTERFACE}.Stop": _taking(StopRequest, _stop),
        f"{INTERFACE}.Shutdown": _taking(Nothing, _shutdown),
        f"{INTERFACE}.Status": _taking(Nothing, _status),
        f"{INTERFACE}.Windows": _taking(WindowsRequest, _windows),
        f"{INTERFACE}.WindowClose": _taking(WindowCloseRequest, _close_window),
        f"{INTERFACE}.LeaseAcquire": _taking(LeaseRequest, _lease),
        f"{INTERFACE}.LeaseList": _taking(Nothing, _leases),
        f"{INTERFACE}.LeaseRelease": _taking(LeaseReleaseRequest, _release),
        f"{INTERFACE}.LaunchPrepare": _taking(LaunchPrepareRequest, _prepare_launch),
        f"{INTERFACE}.LaunchBind": _taking(LaunchBindRequest, _bind_launch),
        f"{INTERFACE}.LaunchEnd": _taking(LaunchEndRequest, _end_launch),
        f"{INTERFACE}.AuditPrune": _taking(AuditPruneRequest, _prune),
        f"{INTERFACE}.Pending": _taking(Nothing, _pending),
        f"{INTERFACE}.Answer": _taking(QuestionAnswerRequest, _answer),
        f"{INTERFACE}.GrantList": _taking(Nothing, _grants),
        f"{INTERFACE}.GrantRevoke": _taking(GrantRevokeRequest, _revoke),
        f"{INTERFACE}.Clipboard": _taking(Nothing, _clipboard),
        f"{INTERFACE}.ClipboardClear": _taking(Nothing, _clear_clipboard),
        f"{INTERFACE}.ClipboardChords": _taking(Nothing, _choose_chords),
        f"{INTERFACE}.Devices": _taking(Nothing, _devices),
        f"{INTERFACE}.DeviceAttach": _taking(DeviceAttachRequest, _attach_device),
        f"{INTERFACE}.DeviceDetach": _taking(DeviceDetachRequest, _detach_device),
    }
)


def find_method(name: str) -> Method:
    """Return a method.  Raises VarlinkError for an unknown one."""
    method = METHODS.get(name)
    if method is not None:
        return method
    interface, _, _word = name.rpartition(".")
    if interface in {SERVICE, INTERFACE}:
        raise VarlinkError("MethodNotFound", method=name)
    raise VarlinkError("InterfaceNotFound", interface=interface)

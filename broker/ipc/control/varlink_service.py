"""The protocol's own interface, ``org.varlink.service``, of a control socket.

Only the authority serves it.
"""

from __future__ import annotations

import msgspec

from broker import __version__
from broker.ipc.control import varlink
from broker.ipc.control.types.base import INTERFACE, Nothing
from broker.ipc.control.varlink import SERVICE, Call, VarlinkError


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


def interface_description(interface: str = INTERFACE) -> str:
    """Return the text of ``io.vitrail.Broker.varlink``, or of another interface."""
    # Late: it brings tempfile and random with it, and few clients ask for it.
    from importlib import resources

    data = resources.files("broker") / "data" / f"{interface}.varlink"
    return data.read_text(encoding="utf-8")


def describe_service(call: Call) -> msgspec.Struct:
    """Answer a method of ``org.varlink.service``.  Raises VarlinkError for others."""
    if call.method == f"{SERVICE}.GetInfo":
        varlink.decode_parameters(call.parameters, Nothing)
        return Info("Vitrail", "Vitrail broker", __version__, "", [SERVICE, INTERFACE])
    if call.method == f"{SERVICE}.GetInterfaceDescription":
        wanted = varlink.decode_parameters(call.parameters, _DescriptionRequest)
        if wanted.interface not in {INTERFACE, SERVICE}:
            raise VarlinkError("InterfaceNotFound", interface=wanted.interface)
        return _Description(interface_description(wanted.interface))
    interface, _, _word = call.method.rpartition(".")
    if interface in {SERVICE, INTERFACE}:
        raise VarlinkError("MethodNotFound", method=call.method)
    raise VarlinkError("InterfaceNotFound", interface=interface)

"""The interface description and the types say the same."""

from __future__ import annotations

import re
import types
import typing

import msgspec
import pytest

from broker.control import api, methods
from broker.control.varlink import ErrorParameters

TEXT = re.sub(r"#.*", "", methods.interface_description())
TYPES = {
    name: getattr(api, name) for name in re.findall(r"^type (\w+)", TEXT, re.MULTILINE)
}
METHODS = {
    "GetVersion": (api.Nothing, api.Version),
    "Run": (api.RunRequest, api.RunItem),
    "RunInput": (api.RunInputRequest, api.Nothing),
    "RunResize": (api.RunResizeRequest, api.Nothing),
    "Stop": (api.StopRequest, api.StopAnswer),
    "Shutdown": (api.Nothing, api.Nothing),
    "Status": (api.Nothing, api.Status),
    "Windows": (api.WindowsRequest, api.WindowsAnswer),
    "WindowClose": (api.WindowCloseRequest, api.Nothing),
    "Open": (api.OpenRequest, api.OpenItem),
    "LeaseAcquire": (api.LeaseRequest, api.LeaseItem),
    "LeaseList": (api.Nothing, api.LeaseListAnswer),
    "LaunchPrepare": (api.LaunchPrepareRequest, api.LaunchAnswer),
    "LaunchBind": (api.LaunchBindRequest, api.LeaseItem),
    "LaunchEnd": (api.LaunchEndRequest, api.Nothing),
    "LeaseRelease": (api.LeaseReleaseRequest, api.Nothing),
    "AuditPrune": (api.AuditPruneRequest, api.AuditPruneAnswer),
    "Pending": (api.Nothing, api.PendingAnswer),
    "Answer": (api.QuestionAnswerRequest, api.Nothing),
    "GrantList": (api.Nothing, api.GrantsAnswer),
    "GrantRevoke": (api.GrantRevokeRequest, api.GrantsAnswer),
    "Clipboard": (api.Nothing, api.ClipboardStatus),
    "ClipboardClear": (api.Nothing, api.Nothing),
    "ClipboardChords": (api.Nothing, api.ClipboardStatus),
    "Devices": (api.Nothing, api.DevicesAnswer),
    "DeviceAttach": (api.DeviceAttachRequest, api.DeviceAnswer),
    "DeviceDetach": (api.DeviceDetachRequest, api.DeviceAnswer),
}
_PLAIN = {str: "string", bytes: "string", int: "int", float: "float", bool: "bool"}


def in_varlink(annotation: object) -> str:
    """How a type of ours is written in varlink."""
    if isinstance(annotation, types.UnionType):
        inner, none = typing.get_args(annotation)
        assert none is type(None)
        return "?" + in_varlink(inner)
    if typing.get_origin(annotation) is list:
        return "[]" + in_varlink(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is dict:
        return "[string]" + in_varlink(typing.get_args(annotation)[1])
    assert isinstance(annotation, type)
    return _PLAIN.get(annotation) or annotation.__name__


def fields_of(struct: type[msgspec.Struct]) -> list[str]:
    hints = typing.get_type_hints(struct)
    return [f"{name}: {in_varlink(hints[name])}" for name in struct.__struct_fields__]


def written(body: str) -> list[str]:
    return [part.strip() for part in body.split(",") if part.strip()]


def test_types() -> None:
    assert len(TYPES) == 20
    found = dict(re.findall(r"type (\w+)\s*\((.*?)\)", TEXT, re.DOTALL))
    assert {name: written(body) for name, body in found.items()} == {
        name: fields_of(struct) for name, struct in TYPES.items()
    }


def test_methods() -> None:
    pattern = r"method (\w+)\s*\((.*?)\)\s*->\s*\((.*?)\)"
    found = {
        name: (written(takes), written(gives))
        for name, takes, gives in re.findall(pattern, TEXT, re.DOTALL)
    }
    assert found == {
        name: (fields_of(takes), fields_of(gives))
        for name, (takes, gives) in METHODS.items()
    }
    ours = {name for name in methods.METHODS if name.startswith(api.INTERFACE)}
    assert ours == {f"{api.INTERFACE}.{name}" for name in METHODS}


def test_errors() -> None:
    found = dict(re.findall(r"error (\w+)\s*\((.*?)\)", TEXT, re.DOTALL))
    assert set(found) == {"Refused", "Failed", "NotFound"}
    for body in found.values():
        assert written(body) == fields_of(ErrorParameters)


def test_a_request_field_may_be_left_out_exactly_if_it_may_be_null() -> None:
    for takes, _gives in METHODS.values():
        for field in msgspec.structs.fields(takes):
            nullable = in_varlink(field.type).startswith("?")
            assert nullable is (not field.required), (takes, field.name)


def test_another_programs_parser_reads_it() -> None:
    scanner = pytest.importorskip("varlink").Interface(methods.interface_description())
    assert scanner.name == api.INTERFACE

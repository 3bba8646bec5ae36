"""The verbs of ``brokerctl device``."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import rich_click as click
from click.shell_completion import CompletionItem

from broker.cli import render
from broker.cli.argument_order import sandbox_first
from broker.cli.policy.ask import EXIT, print_answer
from broker.cli.policy.load import rules_of, world_from
from broker.cli.run.connect import ask, ask_status
from broker.core.errors import RefusedError, VitrailError
from broker.core.escape import printable
from broker.ipc.control.api import (
    DeviceAnswer,
    DeviceAttachRequest,
    DeviceDetachRequest,
    DevicesAnswer,
    DeviceStatus,
    Nothing,
)
from broker.ipc.control.methods import DEVICE_ATTACH, DEVICE_DETACH, DEVICES
from policy.records.device import DEVICE_LINE_BYTES, DeviceFacts, take_interface
from policy.records.device_json import answer_line
from policy.rules.checks import DEVICE
from policy.rules.engine import PolicyCall
from policy.tools.explain import as_json as explanation_json
from policy.tools.explain import explain as explain_call

if TYPE_CHECKING:
    from broker.cli.devices.streams import StreamDevice

_LOOK_SECONDS = 1.0


@click.group("device")
def command() -> None:
    """Manage USB devices: list, attach, detach and explain."""


def _ports(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the ports that have a device."""
    del ctx, param
    try:
        found = _devices().devices
    except VitrailError:
        return []
    return [
        CompletionItem(device.port, help=device.title)
        for device in found
        if device.port.startswith(incomplete)
    ]


def _sandboxes(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete names of running sandboxes."""
    del ctx, param
    try:
        found = ask_status().sandboxes
    except VitrailError:
        return []
    return [CompletionItem(s.name) for s in found if s.name.startswith(incomplete)]


def _devices() -> DevicesAnswer:
    return ask(DEVICES, Nothing())


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_devices(*, as_json: bool) -> None:
    """List USB devices, and the sandboxes to which they are attached.

    LEAVES shows whether devices.toml of this machine allows a device to be attached.
    The microphones and cameras of this machine are listed as well; a microphone is
    shared as a stream by rules for vitrail.AudioInput, a camera by rules for
    vitrail.Camera, or either as the USB device in its port.

    Exit code: 0 done, 1 the broker or vitrail-devices is not running.
    """
    # Late: it loads the sound server's library, which the other verbs do without.
    from broker.cli.devices.streams import stream_devices

    found = _devices()
    streams = stream_devices()
    if as_json:
        listed = [msgspec.to_builtins(stream) for stream in streams]
        render.json_line({**msgspec.to_builtins(found), "streams": listed})
        return
    rows = [_row(device) for device in found.devices]
    render.table(["PORT", "ID", "INTERFACES", "LEAVES", "SANDBOX", "DEVICE"], rows)
    if streams:
        rows = [_stream_row(stream) for stream in streams]
        render.table(["STREAM", "PORT", "SANDBOXES", "NAME", "DEVICE"], rows)
    for problem in found.problems:
        render.note(problem)


def _stream_row(stream: StreamDevice) -> tuple[str, ...]:
    used = ", ".join(stream.sandboxes) or "-"
    return (stream.kind, stream.port or "-", used, stream.name, stream.title)


def _row(device: DeviceStatus) -> tuple[str, ...]:
    kinds = " ".join(device.interfaces[:4])
    kinds += " …" if len(device.interfaces) > 4 else ""
    leaves = ", ".join(device.sandboxes) or "stays"
    has = device.sandbox or ("-" if device.state == "plugged" else device.state)
    words = (device.port, device.id, kinds, leaves, has, device.title)
    return tuple(printable(word, 80) for word in words)


@command.command()
@click.argument("sandbox", shell_complete=_sandboxes)
@click.argument("port", shell_complete=_ports)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def attach(sandbox: str, port: str, *, as_json: bool) -> None:
    """Attach to a running SANDBOX the device in PORT, if a rule allows it.

    Exit code: 0 attached, 1 refused or failed.
    """
    sandbox, port = sandbox_first(sandbox, port)
    request = DeviceAttachRequest(port=port, sandbox=sandbox)
    _show(ask(DEVICE_ATTACH, request), "to", as_json=as_json)


@command.command()
@click.argument("port", shell_complete=_ports)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def detach(port: str, *, as_json: bool) -> None:
    """Detach the device in PORT, or end the attachment of that name.

    camera:SANDBOX revokes a sandbox's access to your camera, and screen:SANDBOX its
    access to your screen.

    Exit code: 0 detached, 1 nothing was attached.
    """
    request = DeviceDetachRequest(port=port)
    _show(ask(DEVICE_DETACH, request), "from", as_json=as_json)


def _show(answer: DeviceAnswer, way: str, *, as_json: bool) -> None:
    """Print that a device was attached or detached."""
    if as_json:
        render.json_line(msgspec.to_builtins(answer))
        return
    backend = f" ({answer.attachment}, by {answer.backend})" if answer.backend else ""
    text = (
        f"port {answer.port} is attached to {answer.sandbox}"
        if way == "to"
        else f"port {answer.port} is detached from {answer.sandbox}"
    )
    render.note(text + backend)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def watch(*, as_json: bool) -> None:
    """Print each plug, unplug, attach and detach event, until interrupted."""
    before: dict[str, tuple[str, str]] = {}
    while True:
        devices = {d.port: d for d in _devices().devices}
        now = {
            port: (f"{d.id} {d.hash}", d.sandbox or d.state)
            for port, d in devices.items()
        }
        for port in sorted(before.keys() | now.keys()):
            if before.get(port) != now.get(port):
                _say(port, devices.get(port), as_json=as_json)
        before = now
        time.sleep(_LOOK_SECONDS)


def _say(port: str, device: DeviceStatus | None, *, as_json: bool) -> None:
    """Print a device's change: plugged in, taken, gone."""
    if as_json:
        found = None if device is None else msgspec.to_builtins(device)
        render.json_line({"port": port, "device": found})
        return
    if device is None:
        text = f"{port}  unplugged"
    else:
        text = f"{port}  {device.sandbox or device.state}  {device.id}  {device.title}"
    sys.stdout.write(printable(text, 400) + "\n")
    sys.stdout.flush()


@command.command()
@click.argument("sandbox", shell_complete=_sandboxes)
@click.argument("port", shell_complete=_ports)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(sandbox: str, port: str, *, as_json: bool) -> None:
    """Print which rule decides for SANDBOX about the device in PORT, and why.

    Exit code: 0 allow or ask, 1 deny, 3 the rules have an error.
    """
    sandbox, port = sandbox_first(sandbox, port)
    device = next((d for d in _devices().devices if d.port == port), None)
    if device is None:
        raise RefusedError(
            f"no device is plugged into port '{port}'",
            hint="to list the devices, run 'brokerctl device list'",
        )
    kinds = (take_interface(kind) for kind in device.interfaces)
    facts = DeviceFacts(
        id=device.id,
        serial=device.serial,
        port=port,
        hash=device.hash,
        interfaces=tuple(kind for kind in kinds if kind is not None),
    )
    call = PolicyCall(DEVICE, f"+{port}", sandbox, "@adminvm", device=facts)
    found = explain_call(rules_of(()), call, world_from(None))
    leaves = bool({sandbox, "*"}.intersection(device.sandboxes))
    if as_json:
        render.json_line({**explanation_json(found), "leaves": leaves})
    else:
        print_answer(found.answer)
        for miss in found.misses:
            if miss.column != "service":
                line = f"  {miss.rule.where}: {miss.why}"
                sys.stdout.write(printable(line, 400) + "\n")
        if not leaves:
            render.note("this machine's devices.toml does not allow this attachment")
    sys.exit(EXIT[found.answer.verdict] if leaves else 1)


@command.command()
@click.option(
    "--batch", is_flag=True, help="Read one LINE after another from standard input."
)
@click.argument("line", required=False)
def match(line: str | None, *, batch: bool) -> None:
    """Print whether the device conditions of a rule match a device.

    LINE is {"rule": {...}, "device": {...}}; with --batch, standard input has one LINE
    per line.  The answer is {"match": true} or {"match": false}; for a malformed line,
    it is {"match": false, "error": ..., "place": ...}.

    Exit code: 0 a match (with --batch: every line was valid), 1 otherwise.
    """
    if batch == (line is not None):
        raise click.UsageError(
            "specify either LINE or --batch, which reads lines from standard input"
        )
    if batch:
        sys.exit(_batch(sys.stdin.buffer))
    answer = answer_line((line or "").encode("utf-8", "surrogateescape"))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.exit(0 if answer["match"] else 1)


def _batch(lines: BinaryIO) -> int:
    """Answer each line in order; return 1 if a line was malformed."""
    code = 0
    while line := lines.readline(DEVICE_LINE_BYTES + 2):
        if len(line) > DEVICE_LINE_BYTES + 1 and not line.endswith(b"\n"):
            _skip(lines)
        answer = answer_line(line.removesuffix(b"\n"))
        if "error" in answer:
            code = 1
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return code


def _skip(lines: BinaryIO) -> None:
    """Skip the rest of a line without storing it."""
    while (rest := lines.readline(65536)) and not rest.endswith(b"\n"):
        pass

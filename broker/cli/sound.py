"""``brokerctl audio``: a mixer for sandboxes, beside the desktop's own.

State and commands go to the broker. The streams that really play are read from the sound
server itself, and muting is done there too: that works even where a filter no longer obeys.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.policy.records import read_records
from broker.cli.run.connect import ask, broker_runs, offline_paths
from broker.cli.sandboxes.ended_disposables import is_disposable_of
from broker.core import limits
from broker.core.distribution import install_command
from broker.core.errors import RefusedError, SetupError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.limits.sound import PULSE_VOLUME
from broker.core.names import SandboxName, take_sandbox_name
from broker.core.paths import find_paths
from broker.core.streams.sound_rules import Level
from broker.ipc.control.api import SoundRequest, SoundStatus
from broker.ipc.control.methods import SOUND
from broker.jail.sound.properties import SANDBOX_KEY
from broker.net.addresses import UnixEndpoint
from broker.net.endpoints import connect
from broker.session.sound import find_sound
from broker.viewer.sound.levels import levels_folder, load_level, save_level
from broker.wire.faults import NotFoundError

if TYPE_CHECKING:
    import pulsectl

_WATCH_SECONDS = 0.5


@click.group("audio")
def command() -> None:
    """Show and change the volume and the microphone access of sandboxes."""


class _Stream(msgspec.Struct, frozen=True):
    """A stream of a sandbox, as the sound server has it."""

    sandbox: str
    index: int
    name: str
    volume: int
    muted: bool
    corked: bool
    recording: bool


async def connect_server(path: Path) -> socket.socket:
    """Connect to the sound server.  Raises UpstreamError with the cause."""
    try:
        # It waits while the server has too many callers: PulseAudio lets five.
        return await connect(
            UnixEndpoint(path), deadline=limits.CONNECT_SECONDS, descriptors=True
        )
    except VitrailError as error:
        cause = error.__cause__
        why = cause.strerror if isinstance(cause, OSError) else error.message
        raise UpstreamError(
            (
                f"no sound server has a socket at {path}"
                if isinstance(cause, FileNotFoundError)
                else f"the sound server at {path} does not answer: {why}"
            ),
            hint="start pipewire-pulse or pulseaudio, or set PULSE_SERVER to its "
            "socket",
        ) from error


async def _reach(path: Path) -> None:
    (await connect_server(path)).close()


@contextmanager
def sound_server() -> Iterator[pulsectl.Pulse]:
    """Connect to the user's sound server by libpulse.

    Raises UpstreamError, SetupError.
    """
    try:
        # Late: it loads libpulse, which the other commands do without.
        import pulsectl
    except OSError as error:
        raise SetupError(
            f"cannot load libpulse: {error}",
            hint=install_command("libpulse0"),
        ) from error
    path = find_sound()
    trio.run(_reach, path)  # libpulse would say no more than "failed"
    try:
        # Not its connect(timeout=): in 24.12 that may wait forever.
        with pulsectl.Pulse("brokerctl", server=f"unix:{path}") as pulse:
            yield pulse
    except pulsectl.PulseError as error:
        raise UpstreamError(
            f"the sound server at {path} refused a request: {error}",
            hint="to see its log, run 'journalctl --user -u pipewire-pulse -u "
            "pulseaudio'",
        ) from error


def _streams(pulse: pulsectl.Pulse) -> list[_Stream]:
    """Return the sandboxes' streams at the sound server."""
    streams: list[_Stream] = []
    for recording, items in (
        (False, pulse.sink_input_list()),
        (True, pulse.source_output_list()),
    ):
        for item in items:
            sandbox = item.proplist.get(SANDBOX_KEY)
            if sandbox is None:
                continue
            streams.append(
                _Stream(
                    sandbox=printable(sandbox, 60),
                    index=item.index,
                    name=printable(item.proplist.get("application.name", ""), 60),
                    volume=round(item.volume.value_flat * PULSE_VOLUME),
                    muted=bool(item.mute),
                    corked=bool(item.corked),
                    recording=recording,
                )
            )
    return streams


def running_filters() -> dict[str, SoundStatus]:
    """Query the broker, if one runs; return all running filters.

    Raises UpstreamError if the broker does not answer.
    """
    if broker_runs(find_paths()):
        with suppress(RefusedError):  # a host has no sound
            rows = ask(SOUND, SoundRequest()).sandboxes
            return {row.sandbox: row for row in rows}
    return {}


def _percent(volume: int) -> str:
    return f"{round(volume * 100 / PULSE_VOLUME)} %"


@command.command("list")
@click.option("--json", is_flag=True, help="Print JSON.")
@click.option("--watch", is_flag=True, help="Show each change until interrupted.")
def list_(*, json: bool, watch: bool) -> None:
    """Show sandboxes with sound: volume, streams, microphone."""
    said: object = None
    while True:
        desks = running_filters()
        with sound_server() as pulse:
            streams = _streams(pulse)
        now = (desks, streams)
        if now != said:
            said = now
            _show(desks, streams, json=json)
        if not watch:
            return
        time.sleep(_WATCH_SECONDS)


def _show(desks: dict[str, SoundStatus], streams: list[_Stream], *, json: bool) -> None:
    if json:
        render.json_line(
            {
                "sandboxes": [msgspec.to_builtins(desk) for desk in desks.values()],
                "streams": [msgspec.to_builtins(one) for one in streams],
            }
        )
        return
    rows = []
    for name in sorted({*desks, *(one.sandbox for one in streams)}):
        desk = desks.get(name)
        own = [one for one in streams if one.sandbox == name]
        volume = "?" if desk is None else _percent(desk.volume)
        if desk is not None and desk.muted:
            volume += ", muted"
        playing = _playing(own)
        if desk is not None and desk.idle:
            playing += f" ({desk.idle} idle)"
        rows.append((name, volume, playing, _microphone(desk)))
    render.table(["SANDBOX", "VOLUME", "STREAMS", "MICROPHONE"], rows)


def _playing(own: list[_Stream]) -> str:
    """Describe a sandbox's playing streams."""
    return ", ".join(
        f"{one.name} {_percent(one.volume)}"
        + (" muted" if one.muted else "")
        + (" paused" if one.corked else "")
        for one in own
        if not one.recording
    )


def _microphone(desk: SoundStatus | None) -> str:
    """Describe a sandbox's use of the microphone."""
    if desk is None:
        return "?"
    words = [desk.rule]
    words += [f"requested by {desk.application}"] if desk.wanted else []
    words += ["allowed"] if desk.allowed and desk.rule != "allow" else []
    words += [f"ACTIVE: {desk.source}"] if desk.active else []
    words += [desk.missing] if desk.missing else []
    return ", ".join(words)


def _desks_of(name: SandboxName) -> list[SandboxName]:
    """Return the sandbox of this name, or those of the record, that have sound.

    Just the name where none has.  Raises RefusedError if no record has it either.
    """
    found = sorted(running_filters())
    if name in found:
        return [name]
    named = [SandboxName(desk) for desk in found if is_disposable_of(desk, name)]
    if len(named) > 1:
        render.note(
            f"record {name} has {len(named)} sandboxes with sound: {', '.join(named)}"
        )
    if not named:
        records = read_records(offline_paths())
        record_names = {*records.records, *records.broken}
        if _record_of(name) not in record_names:
            raise RefusedError(
                f"no record and no sandbox with sound is named '{name}'",
                hint="to list the sandboxes with sound, run 'brokerctl audio list'; "
                "to list the records, run 'brokerctl list'",
            )
    return named or [name]


def _send(request: SoundRequest) -> SoundStatus | None:
    """Send a request to the filter that it names; return its status, None: none runs.

    Raises RefusedError, SetupError, UpstreamError.
    """
    assert request.sandbox is not None
    if broker_runs(find_paths()):
        with suppress(NotFoundError):
            for status in ask(SOUND, request).sandboxes:
                return status
    return None


def _set(sandbox: str, change: SoundRequest) -> list[SandboxName]:
    """Send a request to all filters that a name matches; return sandboxes with one."""
    names = _desks_of(take_sandbox_name(sandbox))
    return [name for name in names if _set_one(name, change)]


def _set_one(name: SandboxName, change: SoundRequest) -> bool:
    """Set the level in the running filter; if none runs, store it for the next start.

    Returns whether one runs.
    """
    status = _send(msgspec.structs.replace(change, sandbox=name))
    if status is None:
        record = _record_of(name)
        old = load_level(levels_folder(), record)
        level = Level(
            old.volume if change.volume is None else change.volume,
            old.muted if change.muted is None else change.muted,
        )
        save_level(levels_folder(), record, level)
        words = _loudness(level.volume, muted=level.muted)
        render.note(
            f"'{name}' has no sound connection; the next sandbox of '{record}' "
            f"starts with: {words}"
        )
        return False
    words = _loudness(status.volume, muted=status.muted)
    render.note(f"{status.sandbox}: {words}")
    return True


def _record_of(name: SandboxName) -> str:
    """Return the record whose sandboxes have this name: levels are kept for a record."""
    records = read_records(offline_paths())
    record_names = {*records.records, *records.broken}
    if name in record_names:
        return name
    matches = (record for record in record_names if is_disposable_of(name, record))
    return next(matches, name)


def _loudness(volume: int, *, muted: bool) -> str:
    return _percent(volume) + (", muted" if muted else "")


@command.command()
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("percent", type=click.IntRange(0, 100))
def volume(*, sandbox: str, percent: int) -> None:
    """Set the volume of a sandbox, 0 to 100, until it is changed again."""
    _set(sandbox, SoundRequest(volume=percent * PULSE_VOLUME // 100))


@command.command()
@click.argument("sandbox", shell_complete=sandboxes)
def mute(*, sandbox: str) -> None:
    """Mute a sandbox; its programs are not notified."""
    names = _set(sandbox, SoundRequest(muted=True))
    if not names:
        return
    # A filter that was taken over must not decide about this.
    with sound_server() as pulse:
        for item in pulse.sink_input_list():
            if item.proplist.get(SANDBOX_KEY) in names and not item.mute:
                pulse.mute(item, mute=True)


@command.command()
@click.argument("sandbox", shell_complete=sandboxes)
def unmute(*, sandbox: str) -> None:
    """Unmute a sandbox."""
    _set(sandbox, SoundRequest(muted=False))


@command.command()
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("answer", type=click.Choice(["deny"]), expose_value=False)
def microphone(*, sandbox: str) -> None:
    """Deny a sandbox the microphone.

    Return when the change is in effect.  The sandbox is refused for a minute; afterwards
    rules for vitrail.AudioInput decide.
    """
    for name in _desks_of(take_sandbox_name(sandbox)):
        _deny_microphone(name)


def _deny_microphone(name: SandboxName) -> None:
    """Deny a sandbox the microphone at its sound filter."""
    status = _send(SoundRequest(sandbox=name, microphone=False))
    if status is None:
        raise RefusedError(
            f"cannot set the microphone access of '{name}': no sandbox of this name "
            "has a sound connection",
            hint="to list the sandboxes with sound, run 'brokerctl audio list'",
        )
    words = "may use" if status.allowed else "may not use"
    render.note(f"{status.sandbox} {words} the microphone")

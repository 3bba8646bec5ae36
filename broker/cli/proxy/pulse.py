"""``brokerctl proxy pulse``: one filter alone in front of the sound server."""

from __future__ import annotations

import dataclasses
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import rich_click as click
import trio

from broker.cli import render
from broker.cli.proxy.unjailed import listen_option, unjailed_option
from broker.core import limits
from broker.core.errors import SetupError, VitrailError
from broker.core.escape import printable
from broker.core.limits import audit as audit_limits
from broker.core.limits import sound as pulse_limits
from broker.core.names import take_sandbox_name
from broker.core.streams.sound_rules import Level, Microphone, Revoked, SoundRules
from broker.ipc import worker

if TYPE_CHECKING:
    from broker.cli.proxy.lone_sound import LoneSound

_DEFAULT = SoundRules("x")
_LINE = 4000


def _most(high: int, low: int = 1) -> click.IntRange:
    return click.IntRange(low, high)


@click.command("pulse")
@click.option("--sandbox", required=True, help="Name shown before every stream.")
@listen_option
@click.option(
    "--server",
    metavar="PATH",
    help="Socket of the sound server [default: $PULSE_SERVER, or the session's].",
)
@click.option(
    "--microphone",
    type=click.Choice([m.value for m in Microphone]),
    default=Microphone.DENY.value,
    show_default=True,
    help="Whether recordings may use the real microphone.",
)
@click.option(
    "--revoked",
    type=click.Choice([r.value for r in Revoked]),
    default=Revoked.SILENCE.value,
    show_default=True,
    help="What a recording receives after the microphone is revoked.",
)
@click.option("--sink", help="Sink to play to [default: the server's default].")
@click.option("--source", help="Source to record from [default: the server's default].")
@click.option(
    "--streams",
    type=_most(pulse_limits.PULSE_STREAMS_PER_SANDBOX),
    default=_DEFAULT.streams,
    show_default=True,
    help="Maximum number of concurrent streams.",
)
@click.option(
    "--rate",
    type=_most(48000 * 8, 8000),
    default=_DEFAULT.rate,
    show_default=True,
    help="Maximum sample rate in Hz.",
)
@click.option(
    "--channels",
    type=_most(pulse_limits.PULSE_CHANNELS_ANY),
    default=_DEFAULT.channels,
    show_default=True,
    help="Maximum number of channels of a stream.",
)
@click.option(
    "--buffer",
    "buffer_bytes",
    type=_most(pulse_limits.PULSE_BUFFER_BYTES, 4096),
    default=_DEFAULT.buffer_bytes,
    show_default=True,
    metavar="BYTES",
    help="Maximum size of a stream's buffer.",
)
@click.option(
    "--idle",
    type=_most(3600),
    default=int(_DEFAULT.idle_seconds),
    show_default=True,
    metavar="SECONDS",
    help="Time without sound after which a stream is idle.",
)
@click.option("--json", is_flag=True, help="Print one JSON object per event.")
@unjailed_option
def command(
    *,
    sandbox: str,
    listen: Path,
    server: str | None,
    microphone: str,
    revoked: str,
    sink: str | None,
    source: str | None,
    streams: int,
    rate: int,
    channels: int,
    buffer_bytes: int,
    idle: int,
    json: bool,
    allow_unjailed: bool,
) -> None:
    """Filter the sound of clients that connect to a socket.

    For containers and confined programs: bind the socket into the sandbox, and set
    PULSE_SERVER to it.  While the filter runs, 'brokerctl audio' shows and changes its
    volume and its access to the microphone.
    """
    rules = SoundRules(
        take_sandbox_name(sandbox),
        microphone=Microphone(microphone),
        revoked=Revoked(revoked),
        streams=streams,
        rate=rate,
        channels=channels,
        buffer_bytes=buffer_bytes,
        idle_seconds=idle,
        sink=sink,
        source=source,
    )
    run = partial(_run, allow_unjailed=allow_unjailed)
    trio.run(run, listen, rules, server, _Told(json=json))


class _Told:
    """Prints what the worker reports; equal reports are counted instead of repeated."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._quiet: dict[object, tuple[float, int]] = {}
        self._microphone = False, False

    def event(self, untrusted: worker.FromSound) -> None:
        """Print one report of the sound filter; count repeated ones instead."""
        kind = type(untrusted).__name__
        values = msgspec.structs.asdict(untrusted)
        key = kind, values.get("command")
        if isinstance(untrusted, worker.SoundState):
            before, self._microphone = (
                self._microphone,
                (untrusted.wanted, untrusted.active),
            )
            # The worker reports a few times a second at most.
            # guard: each change of the microphone is printed
            if self._microphone != before and key in self._quiet:
                self._quiet[key] = 0.0, self._quiet[key][1]
        repeats = self._repeats(key)
        if repeats is None:
            return
        if self._json:
            render.json_line({"event": kind, **values, "unshown": repeats})
            return
        words = " ".join(f"{key}={value}" for key, value in values.items())
        more = f" ({repeats} similar events not shown)" if repeats else ""
        render.note(f"{kind}: {printable(words, _LINE)}{more}")

    def failed(self, error: VitrailError) -> None:
        """Print the error that ended a connection."""
        if self._repeats((type(error), str(error)[:20])) is not None:
            render.error(error)

    def _repeats(self, key: object) -> int | None:
        """Return how many equal lines were not shown; None: do not show this one."""
        now = trio.current_time()
        shown, count = self._quiet.get(key, (0.0, 0))
        if shown and now - shown < 1 / limits.REFUSALS_LOGGED_PER_SECOND:
            self._quiet[key] = (shown, count + 1)
            return None
        if len(self._quiet) >= audit_limits.AUDIT_REFUSAL_KEYS_PER_SANDBOX:
            self._quiet.clear()
        self._quiet[key] = (now, 0)
        return count


@dataclasses.dataclass(frozen=True)
class _Folders:
    """The directories in which the mixer and this filter find each other."""

    desks: Path
    levels: Path


def _folders() -> _Folders | None:
    """Return the mixer's folders; None, after a message, if there is no place."""
    from broker.cli.proxy.mixer_socket import desks_folder
    from broker.viewer.sound.levels import levels_folder

    try:
        return _Folders(desks_folder(), levels_folder())
    except SetupError as error:
        render.note(f"'brokerctl audio' cannot control this filter: {error}")
        return None


async def _serve_desk(folder: Path, desk: LoneSound) -> None:
    """Serve requests of the mixer, if its directory can be used."""
    from broker.cli.proxy.mixer_socket import serve_desk

    name = desk.status().sandbox
    try:
        await serve_desk(folder, name, desk)
    except (SetupError, OSError) as error:
        render.note(f"'brokerctl audio' cannot control this filter: {error}")


async def _run(
    listen: Path,
    rules: SoundRules,
    server: str | None,
    told: _Told,
    *,
    allow_unjailed: bool,
) -> None:
    """Run the sound filter until interrupted."""
    # Late: trio and the worker are not needed to print a help text.
    from broker.cli.proxy.lone_sound import LoneSound
    from broker.cli.proxy.lone_worker import open_lone_worker
    from broker.cli.proxy.sound_server import connect_server, server_path
    from broker.core.streams.wayland_rules import WindowRules
    from broker.ipc.accept_loop import serve
    from broker.net.addresses import UnixEndpoint
    from broker.net.listeners import open_listener
    from broker.net.session_bus import own_bus
    from broker.viewer.sound.levels import load_level
    from broker.viewer.uses.use_signs import UseSigns

    path = server_path(server)
    if not path.is_socket():  # a wrong server is reported at once
        raise SetupError(
            f"no sound server has a socket at {path}",
            hint="start pipewire-pulse or pulseaudio, or set PULSE_SERVER (or "
            "--server) to its socket",
        )
    folders = _folders()
    level = Level() if folders is None else load_level(folders.levels, rules.name)
    signs = UseSigns(own_bus)
    # Signals first: a process that sees the socket may already stop us cleanly.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        windows = WindowRules(rules.name)
        async with open_lone_worker(
            windows, None, allow_unjailed=allow_unjailed
        ) as mine:
            sound = LoneSound(
                mine,
                rules,
                level,
                connect=partial(connect_server, path),
                told=told,
                signs=signs,
            )
            sound.levels = None if folders is None else folders.levels
            await sound.begin()
            listener = await open_listener(UnixEndpoint(listen.absolute()))
            try:
                # One line, whatever the terminal's width: scripts wait for it.
                render.note(
                    f"filtering {rules.name}: PULSE_SERVER=unix:{listener.path}"
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        serve, listener.sock, sound.program, sound.places.pace
                    )
                    nursery.start_soon(sound.report)
                    nursery.start_soon(signs.run)
                    if folders is not None:
                        nursery.start_soon(_serve_desk, folders.desks, sound)
                    async for _ in signals:
                        break
                    nursery.cancel_scope.cancel()
            finally:
                listener.close()

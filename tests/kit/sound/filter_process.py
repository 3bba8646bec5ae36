"""A sound filter in a process of its own, with a worker in its jail and no broker.

``python -m tests.kit.sound.filter_process --sandbox NAME --listen PATH --server PATH``.
With ``--control`` it serves the mixer's method at the control socket of its session, so
that ``brokerctl audio`` shows and changes it as a broker's.  The microphone is what the
request says: no rules decide.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from itertools import count
from pathlib import Path

import trio

from broker.cli.sound import connect_server
from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import sound as pulse_limits
from broker.core.paths import find_paths
from broker.core.streams.sound_rules import Level, Microphone, Revoked, SoundRules
from broker.core.streams.wayland_rules import WindowRules
from broker.ipc import worker
from broker.ipc.control.api import SoundAnswer, SoundRequest, SoundStatus
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.method import Exchange, serves
from broker.ipc.control.methods import SOUND
from broker.net.connection_quota import SoundPlaces, SoundServerPlaces
from broker.net.session_bus import own_bus
from broker.viewer.sound.levels import levels_folder, load_level, save_level
from broker.viewer.sound.mixer import change_sound
from broker.viewer.uses.use_signs import MICROPHONE, UseSigns
from broker.viewer.workers.process import Worker
from broker.wire.faults import NotFoundError
from tests.kit.control import partly, serving
from tests.kit.single_worker import (
    filter_arguments,
    print_line,
    report_worker,
    serve_until_signal,
    single_worker,
)

_OBEY_SECONDS = pulse_limits.PULSE_REVOKE_SECONDS + limits.WORKER_STOP_SECONDS


class FilteredSound:
    """Programs' connections to the sound server, and their mixer."""

    def __init__(self, process: Worker, rules: SoundRules, server: Path) -> None:
        self._worker = process
        self._rules = rules
        self._server = server
        self._level = load_level(levels_folder(), rules.name)
        self._signs = UseSigns(own_bus)
        self._numbers = count(1)
        self._ends: dict[int, trio.Event] = {}
        self._obeyed: dict[int, trio.Event] = {}
        self._allowed = rules.microphone is Microphone.ALLOW
        self._state = worker.SoundState(0, 0, False, False, "", "", "")
        self._places = SoundPlaces(SoundServerPlaces(), rules.name)
        self.show_signs = self._signs.run

    async def begin(self) -> None:
        """Send the worker its rules."""
        await self._worker.send(worker.Sound(self._rules, self._level))

    async def serve_program(self, client: socket.socket) -> None:
        """Have the worker serve a program's connection to its end; close the socket."""
        number = next(self._numbers)
        async with AsyncExitStack() as stack:
            stack.enter_context(client)
            try:
                await stack.enter_async_context(self._places.reserve())
                server = stack.enter_context(await connect_server(self._server))
                ended = self._ends[number] = trio.Event()
                fds = [client.fileno(), server.fileno()]
                await self._worker.send(worker.SoundStream(number), fds)
                await ended.wait()
            except (RefusedError, UpstreamError) as error:
                print_line(error)
            finally:
                self._ends.pop(number, None)

    def take(self, message: object) -> None:
        """Handle a message of the worker."""
        match message:
            case worker.SoundClosed():
                if message.stream in self._ends:
                    self._ends[message.stream].set()
                if message.reason != "closed":
                    print_line(message.reason)
            case worker.SoundState():
                if message.active != self._state.active:
                    name, active = self._rules.name, message.active
                    self._signs.show(
                        MICROPHONE, name, active=active, source=message.source
                    )
                self._state = message
            case worker.SoundRefused():
                print_line(f"Refused: {message}")
            case worker.MicrophoneSet(number):
                self._obeyed[number].set()
            case _:
                pass

    # -- the mixer (mixer.Desk) --------------------------------------------------------

    def dispatcher(self) -> Dispatcher:
        """Return what the control socket serves."""
        return partly([self])

    @serves(SOUND)
    async def handle(
        self, _exchange: Exchange[SoundAnswer], request: SoundRequest
    ) -> SoundAnswer:
        """Answer the mixer's requests about this sandbox."""
        if request.sandbox not in {None, self._rules.name}:
            raise NotFoundError(f"no sandbox is named '{request.sandbox}'")
        return SoundAnswer(sandboxes=[await change_sound(self, request)])

    def status(self) -> SoundStatus:
        """Return what the mixer shows."""
        state = self._state
        return SoundStatus(
            sandbox=self._rules.name,
            volume=self._level.volume,
            muted=self._level.muted,
            streams=state.streams,
            idle=state.idle,
            rule=self._rules.microphone.value,
            wanted=state.wanted,
            allowed=self._allowed,
            active=state.active,
            application=state.application,
            source=state.source,
            missing=state.missing,
        )

    async def set_level(self, level: Level) -> None:
        """Set and store the volume."""
        save_level(levels_folder(), self._rules.name, level)
        self._level = level
        await self._worker.send(worker.SoundLevel(level.volume, level.muted))

    async def set_microphone(self, *, allow: bool) -> None:
        """Allow or deny the microphone; returns when the worker has done that."""
        number = next(self._numbers)
        done = self._obeyed[number] = trio.Event()
        access = worker.Hearing.ALLOW if allow else worker.Hearing.DENY
        await self._worker.send(worker.MicrophoneOrder(number, access))
        with trio.fail_after(_OBEY_SECONDS):
            await done.wait()
        self._allowed = allow


async def _run() -> None:
    parser = filter_arguments("tests.kit.sound.filter_process")
    parser.add_argument("--server", required=True, type=Path)
    parser.add_argument("--microphone", default=Microphone.DENY, type=Microphone)
    parser.add_argument("--revoked", default=Revoked.SILENCE, type=Revoked)
    parser.add_argument("--source")
    parser.add_argument("--idle", default=pulse_limits.PULSE_IDLE_SECONDS, type=float)
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args()
    rules = SoundRules(
        options.sandbox,
        microphone=options.microphone,
        revoked=options.revoked,
        source=options.source,
        idle_seconds=options.idle,
    )
    async with single_worker(WindowRules(rules.name), None) as process:
        sound = FilteredSound(process, rules, options.server)
        await sound.begin()
        control = nullcontext()
        if options.control:
            paths = find_paths()
            paths.runtime.mkdir(mode=0o700, exist_ok=True)
            control = serving(paths.control, sound)
        async with control:
            await serve_until_signal(
                options.listen,
                sound.serve_program,
                partial(report_worker, process, sound.take),
                sound.show_signs,
            )


if __name__ == "__main__":
    trio.run(_run)

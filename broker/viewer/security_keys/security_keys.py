"""Security keys for sandboxes, without handing the key over.

Each connection of a guest gets a separate process, which parses what the guest
sends; here arrive only the questions: which relying party, and for what.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from broker.authority.permit import Permit, Request, request_of
from broker.core.errors import PeerError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Opening
from broker.core.limits import devices as device_limits
from broker.core.question import untrusted_word
from broker.core.services import SECURITY_KEY
from broker.core.stderr_log import log_stderr
from broker.core.token_bucket import TokenBucket
from broker.ipc.host_viewer import TaskStatus
from broker.ipc.security_key import ENTER_PIN, LOOK, READ, REGISTER, SIGN_IN
from broker.ipc.session.key_uses import (
    USE_BYTES,
    KeyAnswer,
    KeyUse,
    decode_use,
    encode_key_answer,
)
from broker.ipc.session.media_orders import OPEN_SECURITY_KEY, OpenSecurityKey
from broker.viewer.authority.interface import Permits
from broker.viewer.authority.rule_hosts import named_hosts
from broker.viewer.orders.session_orders import Begun, UserSession
from broker.viewer.security_keys.shared_key import SharedKey
from broker.wire.row import Empty
from policy.names import PIN
from policy.rules.wording import key_words

_WAYS = frozenset({REGISTER, SIGN_IN, LOOK})
_WORDS_CHARACTERS = 240
_LAST_WORDS = 300
_CANCEL_SECONDS = 0.5
_END_SECONDS = 5.0
"""For its process to cancel at the key and end: milliseconds, but on a busy machine."""
_lines = TokenBucket(1 / 60, 20)
"""Of the broker's own log, about all processes together."""


async def carry(
    opening: Opening,
    conn: socket.socket,
    decider: Permits,
    shared: SharedKey,
    session: UserSession,
    *,
    task_status: TaskStatus,
) -> None:
    """Serve one guest's connection to the security key until it ends.

    ``started`` when the key is there.  Raises SetupError, and RefusedError when no
    rule grants the key, or no longer.
    """
    with shared.place(opening.lease.id):
        # guard: no rule, no key
        async with decider.permit(await connection(opening, decider)) as permit:
            judges = decider, shared
            await _carry(
                opening, conn, judges, permit, session, task_status=task_status
            )


async def _carry(
    opening: Opening,
    conn: socket.socket,
    judges: tuple[Permits, SharedKey],
    permit: Permit,
    session: UserSession,
    *,
    task_status: TaskStatus,
) -> None:
    """Run the key's process on a guest's connection, and answer its questions."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(0)
        fds, warrant = (conn.fileno(), theirs.fileno()), permit.warrant
        async with session.carrying_out(
            OPEN_SECURITY_KEY, OpenSecurityKey(), fds, warrant=warrant
        ) as begun:
            theirs.close()
            task_status.started()

            async def end() -> None:
                ours.shutdown(socket.SHUT_WR)
                # It cancels what the key works on, unless a guest has taken it over.
                with trio.move_on_after(_END_SECONDS, shield=True):
                    await begun.process.wait()
                await begun.end()

            try:
                async with trio.open_nursery() as nursery:

                    async def questions() -> None:
                        """Without questions there is no key."""
                        await _Questions(opening, *judges, ours, end).serve()
                        await begun.end()

                    nursery.start_soon(questions)
                    nursery.start_soon(begun.hold, permit.renewed)
                    await begun.process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                await end()
                _log_last_words(opening, begun)


def _log_last_words(opening: Opening, begun: Begun[Empty]) -> None:
    """Write the last words of the key's process to standard error."""
    words = begun.process.words
    if words is not None:
        if text := words.text(_LAST_WORDS):
            _log(opening, text)
        words.close()


def _log(opening: Opening, text: str) -> None:
    """Log in one line why a key's process has ended; limited, as guests cause it."""
    now = time.monotonic()
    # guard: lines about security keys are few
    if _lines.early(now) <= 0:
        _lines.take(now)
        # In one line: it could forge our lines otherwise.
        # guard: a process of a security key writes no line of the log
        reason = printable(text)
        log_stderr(f"vitrail: {opening.lease.sandbox}: {reason}")


async def connection(opening: Opening, decider: Permits) -> Request:
    """Return the request for the key itself, whatever the relying party.

    What passes unasked (which key it is) is permitted by it.  A rule with ``host=``
    grants it, too: of all hosts that are named it takes a granted one.
    """
    rules = await decider.rules_about(SECURITY_KEY, opening.lease.sandbox)
    hosts = named_hosts(rules)
    requests = [
        replace(request_of(opening, SECURITY_KEY), host=host, ahead=True)
        for host in hosts
    ]
    answers = await decider.preview(requests)
    for request, answer in zip(requests, answers, strict=True):
        if answer is not None and answer.verdict == "allow":
            return request
    return requests[0]


class _Questions:
    """The questions of one process, put one at a time."""

    def __init__(
        self,
        opening: Opening,
        decider: Permits,
        shared: SharedKey,
        sock: socket.socket,
        end: Callable[[], Awaitable[None]],
    ) -> None:
        """Set up one process's questions.

        ``end`` returns when the process has ended.
        """
        self._opening, self._decider, self._sock = opening, decider, sock
        self._end = end
        self._shared = shared
        self._last = self._current = 0
        self._over = trio.Event()
        self._next: KeyUse | None = None
        self._more = trio.Event()
        self._pace = TokenBucket(
            device_limits.SECURITY_KEY_MESSAGES_PER_SECOND,
            device_limits.SECURITY_KEY_MESSAGES_BURST,
        )

    async def serve(self) -> None:
        """Answer the key process's questions until it ends or sends a wrong one."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_all)
            with contextlib.suppress(OSError):  # it has ended, with a verdict unread
                while untrusted_data := await self._receive():
                    try:
                        said = decode_use(untrusted_data)
                    except PeerError as error:
                        _log(self._opening, str(error))
                        break
                    self._take(said)
                    # A guest that asks and cancels in a loop makes two of each round.
                    # guard: messages of a security key's process are read at a pace
                    await trio.sleep(self._pace.take(trio.current_time()))
            nursery.cancel_scope.cancel()

    async def _receive(self) -> bytes:
        """Receive the next question of the key's process; empty at its end."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(USE_BYTES)
            except BlockingIOError:
                continue

    def _take(self, said: KeyUse) -> None:
        """Handle a report of the key's process: a new request, or the end of one."""
        if said.over and said.over == self._current:
            if said.right:
                self._shared.right_pin(self._opening.lease)
            self._over.set()
        elif self._next is not None and said.over == self._next.ask:
            self._next = None
        elif said.ask > self._last:
            self._last = said.ask
            # An honest process asks again when it has said that the last one is over.
            self._next = said
            self._more.set()

    async def _answer_all(self) -> None:
        """Answer the process's questions, one after the other, until cancelled."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            said, self._next = self._next, None
            if said is not None:
                self._current, self._over = said.ask, trio.Event()
                await self._answer(said, self._over)
                self._current = 0

    async def _answer(self, said: KeyUse, over: trio.Event) -> None:
        """Ask for a permit for a message to the key, and send the answer.

        Ends when ``over`` is set, because the message was answered or given up.
        """
        lease = self._opening.lease
        async with trio.open_nursery() as nursery:

            async def given_up() -> None:
                await over.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(given_up)
            await self._shared.pace(lease)
            if said.what == READ:
                self._say(said.ask, allow=True)
                await over.wait()
                return
            # Before anybody is asked: a touch after the answer is for this request.
            async with self._shared.turn(lease):
                try:
                    await self._use(said, over)
                finally:
                    # Else the next one's touch is for what the key still works on.
                    # guard: a turn at the security key ends with its request
                    if not over.is_set():
                        await self._end()
            nursery.cancel_scope.cancel()

    async def _use(self, said: KeyUse, over: trio.Event) -> None:
        """Ask for a permit of one use; allow it until it is over or too long."""
        with contextlib.suppress(VitrailError):
            async with self._permit(said) as warrant:
                # guard: a turn at the security key ends
                with trio.move_on_after(device_limits.SECURITY_KEY_TURN_SECONDS):
                    with self._notified(said):
                        self._say(said.ask, allow=True, warrant=warrant)
                        await over.wait()
                    return
        # Also when it was allowed and is not any more.
        self._say(said.ask, allow=False)
        # It is cancelled at the key first.
        with trio.move_on_after(_CANCEL_SECONDS):
            await over.wait()

    def _notified(self, said: KeyUse) -> contextlib.AbstractContextManager[None]:
        """Return a context with a notification of the request that waits for a touch.

        It is empty for what is neither a registration nor a sign-in.
        """
        if said.what not in {REGISTER, SIGN_IN}:
            return contextlib.nullcontext()
        request = _request(self._opening, said)
        words = key_words(request.way, request.host or "", request.about)
        words = untrusted_word(words, _WORDS_CHARACTERS)
        return self._shared.shown(self._opening.lease, words)

    @asynccontextmanager
    async def _permit(self, said: KeyUse) -> AsyncIterator[bytes]:
        """Hold the permit of one use; yield its warrant.

        Raises VitrailError if denied.
        """
        if said.what != ENTER_PIN:
            request = _request(self._opening, said)
            async with self._decider.permit(request) as permit:
                yield permit.warrant
            return
        lease, permitted = self._opening.lease, False
        wrong = self._shared.enter_pin(lease)
        try:
            async with self._decider.permit(await self._pin(wrong)) as permit:
                permitted = True
                yield permit.warrant
        finally:
            if not permitted:
                self._shared.not_entered(lease)

    async def _pin(self, wrong: int) -> Request:
        """Return the permit request for entering a PIN.

        Asks the user after wrong ones.
        """
        # guard: the user is asked about a PIN after wrong ones
        asks = wrong >= device_limits.SECURITY_KEY_PIN_TRIES
        return replace(
            await connection(self._opening, self._decider),
            way=PIN,
            claims=(("wrong PINs", str(wrong)),),
            asks=asks,
        )

    def _say(self, number: int, *, allow: bool, warrant: bytes = b"") -> None:
        """Send the verdict on a request to the key's process."""
        with contextlib.suppress(OSError):  # it has ended
            self._sock.send(encode_key_answer(KeyAnswer(number, allow, warrant)))


def _request(opening: Opening, said: KeyUse) -> Request:
    """Return the permit request for one use of the key.

    U2F sends only a hash of the relying party: ``host=`` cannot allow it.
    """
    return replace(
        request_of(opening, SECURITY_KEY),
        host=said.host or None,
        way=said.what if said.what in _WAYS else SIGN_IN,
        about="" if said.host else said.digest,
    )

"""A viewer that was taken over names another process as its broker, to be killed.

``brokerctl restart`` kills the process that the broker says it is, with the user's
rights: the compositor, a screen lock, whatever the viewer may not signal itself.
"""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from broker.authority.lockdown import Lockdown
from broker.ipc.control import methods
from broker.ipc.control.answers import answer_in
from broker.ipc.control.api import INTERFACE, Caller, Version
from broker.ipc.control.method import Exchange
from broker.ipc.control.varlink import Call, VarlinkReply
from broker.programs.authority import _control


async def test_the_broker_to_kill_is_the_one_that_the_authority_knows(tmp_path):
    asked = []

    async def hostile(call, _exchange):
        asked.append(call.method)
        answer = Version(version="1", role="local", pid=1)
        return VarlinkReply(msgspec.Raw(msgspec.json.encode(answer)))

    async def nothing(*_):
        raise AssertionError

    lockdown = Lockdown(tmp_path / "lockdown", None, lambda: None)
    parts = SimpleNamespace(
        log=SimpleNamespace(retention=SimpleNamespace(prune=nothing)),
        authority=SimpleNamespace(lockdown=lockdown, decider=None),
        questions=None,
    )
    forwards = {"viewer": hostile, "host": nothing}
    api = _control("local", parts, forwards, tmp_path / "log", 4321)
    call = Call(f"{INTERFACE}.{methods.GET_VERSION.name}")
    reply = await api.reply(call, Exchange(Caller(1, 1), False, nothing))
    assert answer_in(reply, Version).pid == 4321
    assert asked == [call.method], "it answers while its client does"

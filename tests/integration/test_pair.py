"""``brokerctl pair`` and ``link``: two homes, two processes, typed codes."""

from __future__ import annotations

import os
import re
import socket
from contextlib import ExitStack

import pytest
import trio

from broker.cli.link.pairing.exchange import NoCodeError, pair
from broker.core.limits import link as limits
from broker.net.link.keys import BrokerIdentity
from broker.net.link.wire_types import Role
from tests.kit.brokerctl import brokerctl, home
from tests.kit.wayland.typed_text import Typist, typing


@pytest.fixture
def homes():
    with ExitStack() as stack:
        yield stack.enter_context(home()), stack.enter_context(home())


async def both(homes, action):
    """Run 'brokerctl pair' on both and do something with the two terminals."""
    host, viewer = homes
    where = f"unix:{viewer['HOME']}/meet"
    async with typing(
        "pair", "desk", "--as", "viewer", "--endpoint", where, env=viewer
    ) as there:
        await there.wait("waiting on")
        async with typing(
            "pair", "screen", "--as", "host", "--endpoint", where, env=host
        ) as here:
            codes = [await _code(t) for t in (here, there)]
            await action(here, there, *codes)
            return await here.code(), await there.code()


async def _code(terminal: Typist) -> str:
    line = await terminal.wait("this machine's code: ")
    return re.search(r"code: ([0-9 ]+)", line)[1]


async def test_two_brokers_that_were_paired_accept_each_other(homes):
    async def type_both(here, there, here_code, there_code):
        assert here_code != there_code
        here.type(there_code)
        there.type(here_code)

    assert await both(homes, type_both) == (0, 0)
    host, viewer = homes
    keys = {}
    for env, name, role in ((host, "screen", "viewer"), (viewer, "desk", "host")):
        (peer,) = (await brokerctl("link", "list", "--json", env=env)).objects
        assert (peer["name"], peer["role"]) == (name, role)
        (own,) = (await brokerctl("link", "key", "--json", env=env)).objects
        keys[name] = (peer["key"], own["key"])
    assert keys["screen"] == tuple(reversed(keys["desk"]))

    for env, role, name in ((host, "host", "screen"), (viewer, "viewer", "desk")):
        second = await brokerctl("pair", "other", "--as", role, env=env)
        assert second.code == 1
        assert f"already paired with {name}" in second.err
        assert f"brokerctl link forget {name}" in second.err

    gone = await brokerctl("link", "forget", "screen", env=host)
    assert (gone.code, gone.out) == (0, "")
    none = await brokerctl("link", "list", env=host)
    assert (none.code, none.out) == (0, "")
    again = await brokerctl("link", "forget", "screen", env=host)
    assert again.code == 1
    assert "no broker is paired under the name 'screen'" in again.err


async def test_a_host_that_is_first_is_told_where_to_begin(homes):
    host, viewer = homes
    where = f"unix:{viewer['HOME']}/meet"
    said = await brokerctl(
        "pair", "screen", "--as", "host", "--endpoint", where, env=host
    )
    assert said.code == 1
    assert "cannot connect to 'brokerctl pair' on the viewer's machine" in said.err
    assert "brokerctl pair NAME --as viewer" in said.err


async def test_a_wrong_code_pairs_neither(homes):
    async def type_wrong(here, there, here_code, there_code):
        wrong = "000000" if there_code != "000 000" else "111111"
        here.type(wrong)

    assert await both(homes, type_wrong) == (1, 1)
    for env in homes:
        assert (await brokerctl("link", "list", env=env)).out == ""


async def test_files_are_private_and_said_so_when_not(homes):
    host, _viewer = homes
    await brokerctl("link", "key", env=host)
    folder = trio.Path(host["HOME"]) / ".local/state/vitrail/link"
    pem = folder / "identity.pem"
    assert (await folder.stat()).st_mode & 0o777 == 0o700
    assert (await pem.stat()).st_mode & 0o777 == 0o600
    await pem.chmod(0o640)
    answer = await brokerctl("link", "key", env=host)
    assert answer.code == 1
    assert "is readable or writable by others" in answer.err
    assert f"chmod 600 {pem}" in answer.err


async def test_a_name_that_is_none_is_refused_before_anything_is_typed(homes):
    host, _viewer = homes
    answer = await brokerctl(
        "pair", "Screen!", "--as", "host", "--endpoint", "unix:/nowhere", env=host
    )
    assert answer.code == 1
    assert "is not the name of a broker" in answer.err


async def test_a_host_without_an_endpoint_is_told_where_it_stands(homes):
    host, _viewer = homes
    answer = await brokerctl("pair", "screen", "--as", "host", env=host)
    assert answer.code == 1
    assert "link.toml" in answer.err


async def test_a_stranger_s_connection_does_not_end_the_pairing(homes):
    """One that leaves, one that speaks nonsense: the host comes after them."""
    host, viewer = homes
    where = f"{viewer['HOME']}/meet"
    words = ("--endpoint", f"unix:{where}")
    async with typing("pair", "desk", "--as", "viewer", *words, env=viewer) as there:
        await there.wait("waiting on")
        for said, told in ((b"", "closed the connection"), (b"x" * 100, "not speak")):
            stream = await trio.open_unix_socket(where)
            await stream.send_all(said)
            await stream.aclose()
            await there.wait(told)
        async with typing("pair", "screen", "--as", "host", *words, env=host) as here:
            codes = [await _code(t) for t in (here, there)]
            here.type(codes[1])
            there.type(codes[0])
            assert (await here.code(), await there.code()) == (0, 0)


async def test_one_that_says_nothing_is_left(monkeypatch):
    monkeypatch.setattr(limits, "LINK_HANDSHAKE_SECONDS", 0.2)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def ask():
        raise AssertionError("no question without a code")

    with theirs, pytest.raises(NoCodeError, match="did not send its code within"):
        await pair(
            ours,
            role=Role.VIEWER,
            identity=BrokerIdentity.from_seed(b"v" * 32),
            show=lambda _code, _key: pytest.fail("no code is shown"),
            ask=ask,
        )
    assert ours.fileno() == -1


async def test_the_wrong_machine_is_turned_away_and_both_hear_of_it(homes):
    """A mistaken peer_cid or peer_uid: each screen says where to look."""
    host, viewer = homes
    folder = trio.Path(viewer["HOME"]) / ".config/vitrail"
    await folder.mkdir(parents=True, exist_ok=True)
    await (folder / "link.toml").write_text(f"peer_uid = {os.getuid() + 1}\n")
    words = ("--endpoint", f"unix:{viewer['HOME']}/meet")
    async with typing("pair", "desk", "--as", "viewer", *words, env=viewer) as there:
        await there.wait("waiting on")
        for _ in range(2):
            answer = await brokerctl("pair", "screen", "--as", "host", *words, env=host)
            assert answer.code == 1
            assert (
                "see the output of 'brokerctl pair' on the other machine" in answer.err
            )
        await there.wait(
            "refused a connection: the link accepts connections only from uid"
        )
        await there.wait("set peer_uid in link.toml to the uid of the other broker")
        assert there.said.count("refused a connection") == 1, "once"

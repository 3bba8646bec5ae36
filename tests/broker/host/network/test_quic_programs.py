"""Whole connections of aioquic through the filter: RFC 9000, 9001, 9368 and 9369."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from base64 import b64encode
from functools import partial
from hashlib import sha256

import pytest
from aioquic.asyncio import serve
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.broker.host.network.test_quic_hello import come, flow, hellos, names, send
from tests.kit.quic import V1, V2, PageServer, QuicClient, QuicServer, configured


def carried(client, server, talk):
    """Have both sides talk by way of the filter until they are silent.

    Returns the datagrams of the client, all of which have passed.
    """
    now, waiting, passed = 1.0, [], []
    waiting = client.begin(now)
    for _ in range(30):
        if not waiting:
            break
        answers = []
        for datagram in waiting:
            sent = talk.send(send(datagram))["passt"]
            assert talk.reasons == []
            for frame in sent:
                data = frame[14 + 20 + 8 :]
                passed.append(data)
                answers += server.take(data, now)
        waiting = []
        for answer in answers:
            (frame,) = talk.come(come(answer))["guest"]
            waiting += client.take(frame[14 + 20 + 8 :], now)
        now += 0.01
    assert not waiting
    return passed


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"server": {"retries": True}},
        {"both": {"supported_versions": [V2]}, "client": {"original_version": V2}},
        {
            "both": {"supported_versions": [V2, V1]},
            "client": {"original_version": V1},
        },
        {
            "server": {"supported_versions": [V2]},
            "client": {"original_version": V1, "supported_versions": [V2, V1]},
        },
    ],
    ids=["plain", "retry", "version 2", "continued in 2", "begun again in 2"],
)
def test_a_connection_is_carried(more):
    both = more.get("both", {})
    server = QuicServer(**both, **more.get("server", {}))
    client = QuicClient(**both, **more.get("client", {}))
    client.ask(b"hello")
    passed = carried(client, server, flow())
    assert (server.got, client.got) == (b"hello", b"HELLO")
    assert len(passed) >= 2


def test_early_data_is_carried():
    """Its packets are coalesced with the hello, and go to the server's identifier later."""
    talk, tickets = flow(), {}
    first = QuicClient()
    first.ask(b"hello")
    carried(first, QuicServer(tickets=tickets), talk)
    assert first.tickets
    again = QuicClient(session_ticket=first.tickets[0])
    server = QuicServer(tickets=tickets)
    again.ask(b"early")
    passed = carried(again, server, flow())
    assert again.connection.tls.early_data_accepted
    assert (server.got, again.got) == (b"early", b"EARLY")
    assert passed


def test_a_connection_to_another_name_is_not():
    talk, client = flow(), QuicClient(name="evil.test")
    (datagram, *_) = client.begin(1.0)
    assert talk.send(send(datagram))["passt"] == []
    assert talk.reasons == ["its server name did not resolve to its address"]


class Relay:
    """The filter between a browser and a server, each by a socket."""

    def __init__(self, server):
        self.browser = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.browser.bind(("127.0.0.1", 0))
        self.browser.setblocking(False)
        self.named, self.refused = set(), []
        self._server = server
        self._flows = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.browser, self._outward)

    def close(self):
        for sock in (self.browser, *(one for one, _ in self._flows.values())):
            self._loop.remove_reader(sock)
            sock.close()

    def _outward(self):
        data, sender = self.browser.recvfrom(3000)
        if sender not in self._flows:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(self._server)
            self._flows[sender] = sock, hellos()
            self._loop.add_reader(sock, partial(self._inward, sender))
        sock, quic = self._flows[sender]
        if not quic.take(data):
            self.refused.append((len(data), quic.over))
            return
        self.named.update(names(quic))
        quic.unchecked.clear()
        quic.hold(data)
        if not quic.partial:
            for one in quic.held:
                sock.send(one)
            quic.held.clear()

    def _inward(self, sender):
        sock, quic = self._flows[sender]
        data = sock.recv(3000)
        quic.answer(data)
        self.browser.sendto(data, sender)


async def browsed(browser, *, retry):
    """Have a browser show a page by HTTP/3, through the filter."""
    made = configured(is_client=False)
    server = await serve(
        "127.0.0.1", 0, configuration=made, create_protocol=PageServer, retry=retry
    )
    relay = Relay(server._transport.get_extra_info("sockname"))
    public = made.certificate.public_key()
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    port = relay.browser.getsockname()[1]
    # The browser's processes may end, and write, after the one that is waited for.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        child = await asyncio.create_subprocess_exec(
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--enable-quic", f"--user-data-dir={place}"),
            f"--host-resolver-rules=MAP www.test:443 127.0.0.1:{port}",
            "--origin-to-force-quic-on=www.test:443",
            "--ignore-certificate-errors-spki-list="
            + b64encode(sha256(info).digest()).decode(),
            "https://www.test/",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            shown, _ = await asyncio.wait_for(child.communicate(), 100)
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
            relay.close()
            server.close()
    return shown.decode(), relay


@pytest.mark.slow
@pytest.mark.parametrize("retry", [False, True])
def test_a_real_browser_has_its_page(retry):
    """Chromium's hello is in pieces, shuffled, in two packets."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    shown, relay = asyncio.run(browsed(chromium, retry=retry))
    assert "hello to www.test" in shown
    assert (relay.named, relay.refused) == ({"www.test"}, [])

"""aioquic's client and server, another reading of QUIC, without a socket."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.buffer import Buffer
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import (
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.tls import Epoch
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from typing_extensions import override

V1, V2 = 1, 0x6B3343CF
_CLIENT, _SERVER = ("192.0.2.1", 40000), ("192.0.2.2", 443)


def configured(*, is_client: bool, name: str = "www.test", **more) -> QuicConfiguration:
    """A configuration of one side; a server's has a certificate for ``name``."""
    made = QuicConfiguration(is_client=is_client, alpn_protocols=["h3"], **more)
    if is_client:
        made.server_name, made.verify_mode = name, 0
        return made
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    made.private_key = key
    made.certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, SHA256())
    )
    return made


class PageServer(QuicConnectionProtocol):
    """aioquic's server of HTTP/3 by sockets: each page names its host."""

    _http: H3Connection | None = None
    served: ClassVar[list[str]] = []
    """The hosts that were asked for."""

    @override
    def quic_event_received(self, event):
        self._http = self._http or H3Connection(self._quic)
        for one in self._http.handle_event(event):
            if isinstance(one, HeadersReceived):
                host = dict(one.headers)[b":authority"]
                self.served.append(host.decode())
                head = [(b":status", b"200"), (b"content-type", b"text/html")]
                self._http.send_headers(one.stream_id, head)
                page = b"hello to " + host
                self._http.send_data(one.stream_id, page, end_stream=True)
                self.transmit()


class QuicServer:
    """A server of one connection: it begins with a Retry, or refuses a version."""

    def __init__(self, *, retries: bool = False, tickets=None, **more) -> None:
        self.configuration = configured(is_client=False, **more)
        self.retries = retries
        self.tickets = {} if tickets is None else tickets
        self.connection: QuicConnection | None = None
        self.got = b""

    def take(self, datagram: bytes, now: float) -> list[bytes]:
        """Return the server's datagrams after one of a client."""
        if self.connection is None:
            header = pull_quic_header(Buffer(data=datagram), host_cid_length=8)
            if header.packet_type is not QuicPacketType.INITIAL or len(datagram) < 1200:
                return []
            if header.version not in self.configuration.supported_versions:
                told = self.configuration.supported_versions
                return [
                    encode_quic_version_negotiation(
                        header.destination_cid, header.source_cid, told
                    )
                ]
            first, retried = header.destination_cid, None
            if self.retries and not header.token:
                self._first = first
                return [
                    encode_quic_retry(
                        header.version,
                        b"retry-id",
                        header.source_cid,
                        header.destination_cid,
                        b"token",
                    )
                ]
            if self.retries:
                first, retried = self._first, header.destination_cid
            self.connection = QuicConnection(
                configuration=self.configuration,
                original_destination_connection_id=first,
                retry_source_connection_id=retried,
                session_ticket_handler=lambda one: self.tickets.update(
                    {one.ticket: one}
                ),
                session_ticket_fetcher=self.tickets.get,
            )
        self.connection.receive_datagram(datagram, _CLIENT, now)
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self.got += event.data
                self.connection.send_stream_data(event.stream_id, event.data.upper())
        return [data for data, _ in self.connection.datagrams_to_send(now)]


class QuicClient:
    """A client of one connection."""

    def __init__(self, **more) -> None:
        self.tickets = []
        self.connection = QuicConnection(
            configuration=configured(is_client=True, **more),
            session_ticket_handler=self.tickets.append,
        )
        self.got = b""

    def begin(self, now: float) -> list[bytes]:
        self.connection.connect(_SERVER, now)
        return self.sent(now)

    def sent(self, now: float) -> list[bytes]:
        return [data for data, _ in self.connection.datagrams_to_send(now)]

    def ask(self, data: bytes) -> None:
        """Send on a stream, as soon as there are keys."""
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_stream_data(stream, data)

    def take(self, datagram: bytes, now: float) -> list[bytes]:
        """Return the client's datagrams after one of the server."""
        self.connection.receive_datagram(datagram, _SERVER, now)
        # aioquic 1.7 keeps the keys of the version that it began with (RFC 9368, 2.3).
        keys, epoch = self.connection._cryptos, Epoch.INITIAL
        if epoch in keys:
            keys[epoch] = self.connection._cryptos_initial[self.connection._version]
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self.got += event.data
        return self.sent(now)

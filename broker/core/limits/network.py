"""Limits of a sandbox's network, most with ``network = "rules"``; each is per sandbox.

The packet guard keeps to most of them, the viewer to those of questions and forwarded
ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FLOWS = 1024
"""Open at a time; a browser has a few hundred."""
FLOWS_PER_SECOND = 100
FLOWS_BURST = 200
"""New ones; a browser's start opens some fifty at once."""
HOSTS = 256
"""Hosts with ``network = "user"`` that are not new; others come at the pace of new flows.
A guest can send to all of them at once, and the kernel has 1,024 neighbours."""
DATAGRAM_PEERS = 4096
"""Hosts with ``network = "user"``, for each port of the guest, that may answer datagrams."""
DESTINATIONS = 512
"""Hosts, ports and protocols that are asked about or open; each is a live permission."""
WAITING = 16
"""Packets that wait for one answer; the guest sends the others again."""
LOOKUPS_PER_SECOND = 50
LOOKUPS_BURST = 200
"""Questions for addresses."""
LEASES_BURST = 8
"""Packets of DHCP, and one more each second."""
RATE_BURST = 10
RATE_LEAST = 8192
"""Minimum number of bytes at once if a record limits the rate; otherwise those of a
tenth of a second."""
NEIGHBOURS_PER_SECOND = 10
NEIGHBOURS_BURST = 64
"""Packets of ARP and of IPv6's neighbour discovery."""
QUESTIONS = 128
"""Questions that the resolver has not answered yet."""
LOOKUP_SECONDS = 10.0
NAME_SERVERS = 3
"""Maximum number of name servers, like in the C library (MAXNS)."""
NAME_SERVER_SECONDS = 2.0
"""A name server that answers nothing for so long is left for the next one."""
NAME_SERVERS_SECONDS = 5.0
"""While names are asked for: so often it is looked whether the name servers are others."""
QUESTION_BYTES = 512
"""Maximum size of a DNS query, in bytes; a name has 254."""
DNS_STREAMS = 16
"""Connections to the name server, and questions of one without an answer."""
NAME_STREAMS = 4
"""Questions to this machine's name servers by TCP at a time; dnsmasq serves 20 in all."""
TRIES = 4
"""How often an answer by TCP is sent again, a second apart."""
ANSWER_BYTES = 1400
"""Maximum size of a DNS answer that is relayed unchanged: it fits into a packet."""
STREAM_ANSWER_BYTES = 65535
"""Maximum size of a DNS answer over TCP, in bytes."""
BINDINGS = 4096
NAMES_PER_ADDRESS = 32
"""Addresses that belong to a name; a guest's largest page names some hundreds."""
BINDING_SECONDS = (60, 3600)
"""How long an address is a name's: its time to live, within these.  Programs connect
some time after they asked, also where that is 0."""
REFUSED_SECONDS = 2.0
"""A refusal is not asked about again for so long."""
IDLE_DESTINATION_SECONDS = 120.0
"""A permission without a flow is given back after so long."""
IDLE_SECONDS: Mapping[str, float] = MappingProxyType(
    {"tcp": 7200.0, "udp": 180.0, "icmp": 30.0}
)
"""A flow without a packet has ended; as RFC 5382 and 4787 have it for TCP and UDP."""
ENDED_SECONDS = 10.0
"""A connection whose two sides have closed is kept so long for its last packets."""
FORWARDED = 32
"""Connections of one forwarded port at a time; each is a program of the sandbox."""
REPORT_SECONDS = 1.0
"""Between two reports of the bytes that flows have moved."""
FLOW_REPORT_BYTES = 1 << 18
"""Messages that the viewer has not read; beyond it every flow ends."""
SWITCH_PORTS = 64
"""Sandboxes at one switch: each may leave a read of frames unread there."""
PASST_FDS = 2048
"""RLIMIT_NOFILE of passt: a flow of its sandbox is a socket.  The machine has 28,232
ports for all UDP sockets that name none, a question to a name server among them; an
idle flow of UDP keeps its port for three minutes.  ``FLOWS``, and as many that end."""
PASST_SOCKET_BYTES = 1 << 22
"""SO_SNDBUF of passt's end, and SO_RCVBUF of a box's frames: windows of fast connections."""
BOX_FRAMES = 4096
"""Frames that wait for a box's interface; a read of passt's is a few hundred."""
BOX_TCP_BYTES = 1 << 18
"""The last numbers of tcp_rmem and tcp_wmem (tcp(7)) in a box.  A receive window is half
of that: passt of 2023 builds 128 frames at once, and of a longer window (187 KB) it now
and then sends frames again and again, until the connection stands still.  What a
connection has sent fits into the packet socket: of more, frames are lost, and passt resets
a connection that has stood still."""

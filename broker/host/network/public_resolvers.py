"""Public name servers by HTTPS, as their operators name them.

A guest that asks one of them for names is not seen to ask.  The list is of the
resolvers that browsers and systems offer; one that nobody knows is a host as any other.
"""

from __future__ import annotations

from ipaddress import ip_network

_LISTED = """
1.1.1.1 1.0.0.1 1.1.1.2 1.0.0.2 1.1.1.3 1.0.0.3
104.16.248.249 104.16.249.249 162.159.36.1 162.159.46.1
162.159.61.3 162.159.61.4 172.64.41.3 172.64.41.4
8.8.8.8 8.8.4.4
9.9.9.9 9.9.9.10 9.9.9.11 149.112.112.9 149.112.112.10 149.112.112.11 149.112.112.112
208.67.220.123 208.67.222.123 208.67.220.220 208.67.222.222 146.112.41.2 146.112.41.3
94.140.14.14 94.140.15.15 94.140.14.15 94.140.15.16 94.140.14.140 94.140.14.141
185.228.168.9 185.228.169.9 185.228.168.10 185.228.169.11 185.228.168.168
45.90.28.0/24 45.90.30.0/24
76.76.2.0/28 76.76.10.0/28
194.242.2.0/28
185.222.222.222 45.11.45.11
77.88.8.1 77.88.8.2 77.88.8.3 77.88.8.7 77.88.8.8 77.88.8.88
223.5.5.5 223.6.6.6 1.12.12.12 120.53.53.53 101.101.101.101
"""

RESOLVERS = frozenset(
    address.packed for text in _LISTED.split() for address in ip_network(text)
)
"""Their IPv4 addresses, in network order."""

CANARY = "use-application-dns.net"
"""A browser whose name server does not know this name asks no other one by HTTPS."""

"""Public name servers by HTTPS, as their operators name them.

A guest that asks one of them for names is not seen to ask.  The list is of the
resolvers that browsers and systems offer; an unknown resolver is a host as any other.

The packet guard of a sandbox runs this, jailed; the host only starts it.
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
2606:4700:4700::1111 2606:4700:4700::1001 2606:4700:4700::1112 2606:4700:4700::1002
2606:4700:4700::1113 2606:4700:4700::1003 2606:4700:4700::64 2606:4700:4700::6400
2606:4700::6810:f8f9 2606:4700::6810:f9f9 2803:f800:53::4 2a06:98c1:52::4
2001:4860:4860::8888 2001:4860:4860::8844 2001:4860:4860::64 2001:4860:4860::6464
2620:fe::fe 2620:fe::9 2620:fe::10 2620:fe::fe:10 2620:fe::11 2620:fe::fe:11
2620:119:35::35 2620:119:53::53 2620:119:35::123 2620:119:53::123
2a10:50c0::ad1:ff 2a10:50c0::ad2:ff 2a10:50c0::bad1:ff 2a10:50c0::bad2:ff
2a10:50c0::1:ff 2a10:50c0::2:ff
2a0d:2a00:1::2 2a0d:2a00:2::2
2a09:: 2a11:: 2a07:e340::2 2a07:e340::3 2a07:e340::4 2a07:e340::5 2a07:e340::6
2400:3200::1 2400:3200:baba::1 2402:4e00:: 2402:4e00:1::
2a02:6b8::feed:0ff 2a02:6b8:0:1::feed:0ff
"""

RESOLVERS = frozenset(
    address.packed for text in _LISTED.split() for address in ip_network(text)
)
"""Their addresses of IPv4 and IPv6, in network order."""

CANARY = "use-application-dns.net"
"""A browser whose name server does not know this name asks no other one by HTTPS."""

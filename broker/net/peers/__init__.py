"""Identity of the peer at the far end: claims, credentials, leases.

Processes: authority, viewer, vitrail-devices, brokerctl (control_peers); host,
brokerctl (credentials, flatpak_instances, identity); host (launch_secret, leases);
authority, pump and acceptor, viewer, host, vitrail-devices, brokerctl (peer_process).
"""

from __future__ import annotations

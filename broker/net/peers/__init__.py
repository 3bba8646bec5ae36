"""Identity of the peer at the far end: claims, credentials, leases.

Processes: authority, vitrail-local before its fork, viewer, vitrail-devices, brokerctl
(control_peers); host, brokerctl (credentials, flatpak_instances, identity); host
(launch_secret, leases); most processes (peer_process).
"""

from __future__ import annotations

"""Every limit of the brokers: name, unit, reason.  Tested at N and N + 1.

A limit that only one protocol knows is here too, so that one folder shows
how much a hostile sandbox can make us hold.

Callers write ``limits.NAME`` for those that most processes know.  The other modules are
imported by name: a process has the limits of its work (``tests/test_layout.py``).

Processes: most processes (audit, control, machines, peers, transfer); authority,
vitrail-local before its fork, viewer, host (authority); vitrail-local before its fork,
viewer, host, shipper, worker, brokerctl (clipboard); vitrail-local before its fork,
viewer, host, security key, vitrail-devices (devices); session children, vitrail-local
before its fork, viewer, host (host_viewer); vitrail-local before its fork, viewer,
host, worker, brokerctl (link); viewer, host, netguard, switch, flowguard, brokerctl
(network); viewer, worker, brokerctl (notifications, tray); vitrail-local before its
fork, viewer, worker, brokerctl (pulse); session children, pump and acceptor, viewer,
host, brokerctl (relay); session children, viewer, worker, brokerctl (ssh_agent);
helpers, viewer, prompt agent, vitrail-access, worker, brokerctl (wayland); worker,
brokerctl (waypipe).
"""

from __future__ import annotations

from broker.core.limits.control import *  # noqa: F403
from broker.core.limits.machines import *  # noqa: F403
from broker.core.limits.peers import *  # noqa: F403

"""Moving bytes between two sockets: the pump process and its contract.

Processes: pump and acceptor, brokerctl (channel, channel_messages, engine, flow, pool,
process, turns); viewer, host, brokerctl (client); pump and acceptor, vitrail-local,
launcher, viewer, host, brokerctl (handle); vitrail-local, launcher, viewer, host
(starting).
"""

from __future__ import annotations

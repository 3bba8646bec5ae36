"""Moving bytes between two sockets: the pump process and its contract.

Processes: pump and acceptor, brokerctl (channel, channel_messages, engine, flow, pool,
process, turns); viewer, host, brokerctl (client); pump and acceptor, viewer, host,
brokerctl (handle); viewer, host (starting).
"""

from __future__ import annotations

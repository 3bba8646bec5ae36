"""Moving bytes between two sockets: the pump process and its contract.

Processes: pump, acceptor, brokerctl (channel, channel_messages, confine, engine, flow,
pool, process, turns); viewer, host, brokerctl (client); viewer, host, pump, acceptor,
brokerctl (handle); viewer, host (starting).
"""

from __future__ import annotations

"""Moving bytes between two sockets: the pump process and its contract.

Processes: helpers, brokerctl (channel, channel_messages, engine, flow, pool, process,
turns); viewer, host, brokerctl (client); helpers, viewer, host, brokerctl (handle);
viewer, host (starting).
"""

from __future__ import annotations

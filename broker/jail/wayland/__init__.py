"""The Wayland filter: what one application of a sandbox may show and hear.

Sans-IO: bytes and descriptors in, bytes and descriptors out, time passed in.
``filter.py`` is the machine; read its header first.

Processes: worker, brokerctl (budget, choice, configure_requests, filter, handler_table,
identity, input_model, model, ports, sandbox, state); helpers, brokerctl
(security_context).
"""

from __future__ import annotations

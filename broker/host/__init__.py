"""The host part: machines, leases, devices.  It decides nothing.

Processes: brokerctl (box_resolver).
"""

from __future__ import annotations

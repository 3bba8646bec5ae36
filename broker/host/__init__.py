"""The host part: machines, leases, devices.  It decides nothing."""

from __future__ import annotations

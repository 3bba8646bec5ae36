"""Times, digests and the fleet's database, of which brokerctl alone reads."""

from __future__ import annotations

"""Identity of the peer at the far end: claims, credentials, leases."""

from __future__ import annotations

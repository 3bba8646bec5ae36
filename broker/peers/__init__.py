"""Who is at the far end: claims, credentials, leases."""

from __future__ import annotations

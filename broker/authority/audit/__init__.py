"""The audit log: the schema of events, their store, and queries."""

from __future__ import annotations

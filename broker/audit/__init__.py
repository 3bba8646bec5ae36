"""What happened: the schema of events, their store, and questions to it."""

from __future__ import annotations

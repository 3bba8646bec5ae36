"""The ingest service of a fleet: one role of the database for all machines.

No program of a desktop imports this; it needs the extra ``fleet``.
"""

from __future__ import annotations

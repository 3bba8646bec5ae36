"""Events and the log's database: written by one process, read by several."""

from __future__ import annotations

"""Parsing of times, digests of the log, and queries of the fleet's database."""

from __future__ import annotations

"""Checks of the log's proof: inclusion, chains, whole logs."""

from __future__ import annotations

"""Pairing two machines, which brokerctl does alone."""

from __future__ import annotations

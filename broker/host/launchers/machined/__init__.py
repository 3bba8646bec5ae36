"""Containers and guests that systemd-machined knows."""

from __future__ import annotations

"""The varlink service that brokerctl and other programs talk to."""

from __future__ import annotations

"""The control socket: its server and the methods of all roles."""

from __future__ import annotations

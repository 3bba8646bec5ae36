"""Moving bytes between two sockets: the pump process and its contract."""

from __future__ import annotations

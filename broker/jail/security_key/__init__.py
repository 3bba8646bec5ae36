"""A security key's messages, parsed.

Processes: security key.
"""

from __future__ import annotations

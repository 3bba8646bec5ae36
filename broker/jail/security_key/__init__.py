"""A security key's messages, parsed.

The process of a security key runs them, beside the worker
(``broker.programs.tools.security_key``).
"""

from __future__ import annotations

"""The Wayland filter: what one application of a sandbox may show and hear.

Sans-IO: bytes and descriptors in, bytes and descriptors out, time passed in.
``filter.py`` is the machine; read its header first.
"""

from __future__ import annotations

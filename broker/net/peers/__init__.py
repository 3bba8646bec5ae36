"""Identity of the peer at the far end: claims, credentials, leases.

The host recognises by these who connects; a module that other processes run says so.
"""

from __future__ import annotations

"""Between host and viewer: endpoints and the seam that both roles speak through.

Host and viewer run it, each at its end; ``brokerctl link pair`` runs its keys and its
reader of messages.
"""

from __future__ import annotations

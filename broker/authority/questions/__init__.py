"""Questions to the user: their queue, grants, the phrase.

Processes: authority, brokerctl (phrase); authority, viewer, brokerctl (subject).
"""

from __future__ import annotations

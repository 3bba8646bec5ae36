"""Events and the log's database: written by one process, read by several.

The authority writes the database; the shipper and brokerctl read it.  Host and viewer
make events and send them to the authority.
"""

from __future__ import annotations

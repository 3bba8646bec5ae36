"""The policy: records and rules, read from files, answering questions.

Pure by rule: nothing here imports ``broker``, but its table of characters that are not
seen, and only ``loader`` reads files.

The authority and brokerctl read files and evaluate rules; a session child reads records
to check an order.  Host and viewer import types of records, which the authority sends
them, and words for questions.
"""

from __future__ import annotations

"""The policy: records and rules, read from files, answering questions.

Pure by rule: nothing here imports ``broker``, but its table of characters that are not
seen, and only ``loader`` reads files.

Processes: most processes (destinations, suggestions); authority, session children,
vitrail-local before its fork, viewer, host, brokerctl (errors, limits); authority,
session children, brokerctl (files); authority, session children, viewer, brokerctl
(names).
"""

from __future__ import annotations

"""The policy: records and rules, read from files, answering questions.

Pure by rule: nothing here imports ``broker``, but its table of characters that are not
seen, and only ``loader`` reads files.

Processes: most processes (destinations); authority, viewer, host, brokerctl (errors,
limits); authority, brokerctl (files); authority, viewer, brokerctl (names); authority,
viewer, host, vitrail-devices, brokerctl (suggestions).
"""

from __future__ import annotations

"""The policy: records and rules, read from files, answering questions.

Pure by rule: nothing here imports ``broker``, but its table of characters that are not
seen, and only ``loader`` reads files.
"""

from __future__ import annotations

"""One module for each brokerctl verb, and the rendering they share."""

from __future__ import annotations

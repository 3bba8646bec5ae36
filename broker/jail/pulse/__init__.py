"""The PulseAudio filter: one sandbox's sound, as bytes in and bytes out.

Processes: worker, brokerctl.
"""

from __future__ import annotations

"""Types of contents and keys of pastes, that viewer and worker both name.

Processes: session children, viewer, brokerctl (chord_settings); session children,
viewer, worker, brokerctl (chords); viewer, worker, brokerctl (types).
"""

from __future__ import annotations

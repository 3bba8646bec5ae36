"""Sound of the viewer's sandboxes: streams, mixer, microphone.

Processes: viewer, brokerctl (indicator); vitrail-local, launcher, viewer, brokerctl
(levels, mixer).
"""

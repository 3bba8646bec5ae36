"""Sound of the viewer's sandboxes: streams, mixer, microphone.

Processes: viewer, brokerctl (indicator); vitrail-local before its fork, viewer,
brokerctl (levels, mixer).
"""

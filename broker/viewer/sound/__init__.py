"""Sound of the viewer's sandboxes: streams, mixer, microphone.

Processes: viewer, brokerctl (indicator); vitrail-local, before it is confined, viewer,
brokerctl (levels, mixer).
"""

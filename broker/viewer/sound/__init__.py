"""Sound of the viewer's sandboxes: streams, mixer, microphone.

Processes: viewer, brokerctl (indicator, levels, mixer).
"""

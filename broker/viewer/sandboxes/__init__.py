"""One sandbox as the viewer sees it: worker, streams, programs.

Processes: viewer, brokerctl (time_zone).
"""

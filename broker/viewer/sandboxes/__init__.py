"""One sandbox as the viewer sees it: worker, streams, programs.

Processes: viewer, brokerctl (named_lease); vitrail-local before its fork, viewer,
brokerctl (time_zone).
"""

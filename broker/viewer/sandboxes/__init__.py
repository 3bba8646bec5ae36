"""One sandbox as the viewer sees it: worker, streams, programs.

Processes: viewer, brokerctl (named_lease); vitrail-local, launcher, viewer, brokerctl
(time_zone).
"""

"""Directories of the user's in a sandbox: opened safely, mounted, unmounted.

Processes: folder mounts, brokerctl (binding); viewer, brokerctl (bound_files, opened);
viewer, host, brokerctl (mounts); viewer, host, folder mounts, brokerctl (tool).
"""

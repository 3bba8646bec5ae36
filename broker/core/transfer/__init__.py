"""Addresses, file names and files that cross between sandboxes: the rules, sans-IO.

Processes: viewer, worker (claimed_type); viewer, worker, brokerctl (entries, quota);
session children, viewer, worker, brokerctl (file_names, hosts, lookalikes, mailto,
scripts, urls).
"""

"""Addresses, file names and files that cross between sandboxes: the rules, sans-IO.

Processes: viewer, worker (claimed_type); viewer, worker, brokerctl (entries,
file_names, hosts, lookalikes, mailto, quota, scripts, urls).
"""

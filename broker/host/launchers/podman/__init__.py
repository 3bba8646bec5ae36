"""Podman: containers by record, and the hook for those that people start.

Processes: brokerctl (arguments, bound, containers_conf, hooks).
"""

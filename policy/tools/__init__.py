"""Tools for people who write policy: lint, explain, diff, graph.

Only brokerctl runs these modules.
"""

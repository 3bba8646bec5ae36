"""Tools for people who write policy: lint, explain, diff, graph, bundles.

Only brokerctl runs these modules.
"""

"""Surfaces and frames: geometry, layout, commits.

Processes: worker, brokerctl.
"""

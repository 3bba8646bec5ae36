"""Handlers of protocols that most applications do without.

Processes: worker, brokerctl.
"""

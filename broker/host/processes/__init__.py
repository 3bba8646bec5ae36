"""Processes of machines: started, found again by a later broker, awaited and ended.

The host holds them; brokerctl finds those of a machine whose broker has ended.
"""

"""Guest images on this machine: their store, and the files that a start takes.

The host reads images; brokerctl builds, imports and removes them.
"""

"""The parts that are packages of their own.

brokerctl, the host and the shipper ask for a part before they import it.
"""

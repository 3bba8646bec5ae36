"""Launchers in brokerctl: a module for each kind that it starts, sets up or checks."""

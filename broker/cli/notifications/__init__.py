"""Notifications that brokerctl sends and lists."""

"""The help and the messages that brokerctl translates."""

"""The way of ``brokerctl run --bwrap`` that imports little."""

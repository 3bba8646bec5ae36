"""The logs of many machines in one database: 'brokerctl audit fleet' and 'ship'."""

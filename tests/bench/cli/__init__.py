"""How long verbs of brokerctl take to answer."""

"""Files on their way between sandboxes: entries, and whether they are what they say.

Processes: worker, brokerctl (entry_reader).
"""

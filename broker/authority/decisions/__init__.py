"""How a request is decided: the rules now, limits, answers, and the events of it.

Processes: authority, viewer (decision_events).
"""

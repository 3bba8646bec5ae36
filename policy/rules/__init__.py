"""Rules: reading them, and answering a call.

Processes: authority, brokerctl (applied, checks, conditions, engine, grammar, rule,
rulefiles, ruleset, tokens, verdict, world); authority (last_good); authority, viewer,
brokerctl (record_gate, wording).
"""

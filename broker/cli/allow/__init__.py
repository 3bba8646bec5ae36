"""From a refusal to a rule: what line allows it, where, and what else it allows."""

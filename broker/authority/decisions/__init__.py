"""How a request is decided: the rules now, limits, answers, and the events of it."""

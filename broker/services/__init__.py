"""Parts that every role runs: event log, pump, workers, checkpoints."""

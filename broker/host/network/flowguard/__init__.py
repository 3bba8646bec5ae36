"""The flowguard: the process that judges a sandbox's flows by its rules."""

"""The flowguard: the process that has the viewer decide a sandbox's flows."""

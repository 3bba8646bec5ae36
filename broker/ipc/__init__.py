"""Messages between our processes, a set in each module.

A module's processes are the two ends that its first lines name; a sandbox's broker, or
supervisor, is the viewer's process there, unless a line says the host's.
"""

"""Sound, cameras, screens and security keys of the user's.

Processes: session children.
"""

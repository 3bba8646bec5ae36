"""The user's compositor, font and chords.

Processes: session children.
"""

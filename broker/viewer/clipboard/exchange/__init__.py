"""Crossing from one sandbox to another by the user's hand: chords and transfers.

Sans-IO: the compositor's keyboard events and the workers' answers go in,
verdicts and actions come out.  Nothing here holds a descriptor or a clock.

The viewer runs this; the bytes of content pass workers only.
"""

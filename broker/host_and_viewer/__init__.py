"""What the host's and the viewer's process share: their ends of the authority's channel.

The authority imports nothing of it.

Each of the two imports these modules and runs them for itself.
"""

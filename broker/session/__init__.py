"""What is done with the user's rights for the viewer, in one child of the starter each.

Processes: session child.  It has the session's variables and blocking calls; it is forked
for one order (``ipc.session``) and ends with it.  A module has the orders about one thing.
"""

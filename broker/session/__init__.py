"""What is done with the user's rights for the viewer, in one child of the starter each."""

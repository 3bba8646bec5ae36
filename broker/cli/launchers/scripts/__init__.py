"""Machines that a script of the user starts with the arguments that Vitrail prints."""

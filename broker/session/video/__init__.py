"""Cameras and screens, for which the viewer needs the rights of the user."""

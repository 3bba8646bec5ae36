"""Use of the user's own ssh agent."""

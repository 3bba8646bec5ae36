"""What a sandbox's programs say to an ssh agent."""

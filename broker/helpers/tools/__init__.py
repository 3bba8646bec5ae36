"""One program of many jailed tools: its profiles, and bubblewrap's words for a jail."""

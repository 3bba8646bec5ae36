"""The program of tools, and what it runs that parses a guest's bytes with our helpers."""

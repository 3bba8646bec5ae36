"""Processes of machines: started, found again by a later broker, awaited and ended."""

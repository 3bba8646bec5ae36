"""The viewer's end of the authority's channel: requests out, permits in."""

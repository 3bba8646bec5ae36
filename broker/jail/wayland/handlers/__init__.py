"""One module of message handlers for each part of the protocol."""

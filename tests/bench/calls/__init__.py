"""The calls between sandboxes: how long one takes, and how fast its bytes pass."""

"""Sound of the viewer's sandboxes: streams, mixer, microphone."""

"""Guest images: build, store, rebuild."""

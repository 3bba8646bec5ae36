"""Pictures in the graphics driver's memory (dma-bufs), by record only."""

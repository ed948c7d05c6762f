"""An HTTP service around one detector: images in, rows out, no state."""

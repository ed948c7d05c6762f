"""Two answers about the same frames, held to each other in each column group's own unit."""

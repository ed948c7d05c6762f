"""What is done to pixels and raw outputs around the networks, as kernels and as their plain twins, held equal."""

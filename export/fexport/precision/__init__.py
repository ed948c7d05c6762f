"""Lower precisions: which node has which type and why (`plan`), float16 and bfloat16 graphs (`cast`), int8 graphs
(`quantise`), what would leave float16's range (`magnitudes`), what TensorRT refuses (`lint`), all of it for a network (`lower`)."""

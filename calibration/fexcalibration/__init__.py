"""Calibration: what a network is given on pictures of one's own (`chips`), and how far its tensors reach there (`ranges`).

Needs no torch. Pictures stay where they are: of a face only the ranges are kept.
"""

METHODS = ("mse", "minmax", "percentile", "entropy")
"""Ways to cut a calibrated range (see `ranges`); the first is the default."""

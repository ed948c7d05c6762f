"""Calibration of reduced precision: where activation ranges and sensitivities will be measured.

This version runs in fp32 alone and measures nothing yet: the package is empty.
"""

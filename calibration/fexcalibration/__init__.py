"""Calibration of reduced precision: where activation ranges and sensitivities will be measured.

Its first content comes with the precision work; nothing is importable from here yet.
"""

"""Head pose against labels: data sets, predictions, the errors that people quote, and what the worst ones look like.

Needs no torch. The numbers are those of the test scripts of TokenHPE, 6DRepNet and NLML_HPE (see `metrics`).
"""

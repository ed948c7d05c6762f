"""One torch module a network, written for export.

Module and parameter names are those of the published checkpoints, so that `load_state_dict(strict=True)` is the
test that a file is what the contract says. The arithmetic is that of py-feat's modules; nothing is folded or fused
here (that is `fexport.onnx_passes`' work), so these modules are also the reference that `fexport.verify` compares
the exported graphs with.
"""

"""ncnn's ways to convolve: which of them a network does without, since it is faster so.

ncnn chooses a way for each convolution by rules that do not see the CPU's caches. Its options are a network's, not a layer's. What
is here was measured with `benchmarks/ncnn_options.py` and gained with one thread and with two (by more than rounds scatter: the
upper quartile of the ratios is below 1).
"""

from __future__ import annotations

from fexruntime.contracts import networks as N

WAYS = ("winograd_convolution", "winograd43_convolution", "winograd63_convolution")
"""Options that may be off, less ncnn's `use_`: they change how a convolution is computed, never its precision."""

OFF: dict[str, tuple[str, ...]] = {
    # half of it is convolutions on 14 x 14 and 7 x 7, which larger tiles of F(4x4) and F(6x6) pad to 16, 18 and 12
    N.ARCFACE.name: ("winograd43_convolution", "winograd63_convolution"),
}
"""By network: those that its artefact has off."""

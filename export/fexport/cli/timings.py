"""How long each stage of a run took, for `-v`."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger("fexport.run")


class Timings:
    """Seconds and items by stage: give `add` to a Detector as its observer."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._stages: dict[str, tuple[float, int]] = {}

    def add(self, stage: str, seconds: float, items: int) -> None:
        """Note a run of a stage."""
        before = self._stages.get(stage, (0.0, 0))
        self._stages[stage] = before[0] + seconds, before[1] + items

    def say(self) -> None:
        """Log a line a stage, and the whole: what the stages do not have is reading, writing and start-up."""
        for stage, (seconds, items) in self._stages.items():
            _log.info("%s: %.3f s, %d items, %.1f ms each", stage, seconds, items, 1000 * seconds / max(items, 1))
        _log.info(
            "in the stages %.2f s of %.2f s",
            sum(s for s, _ in self._stages.values()),
            time.perf_counter() - self._began,
        )

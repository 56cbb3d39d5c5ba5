"""Stop: whether a process was asked to save and end, by a signal or by the end of the one that started it."""

from __future__ import annotations

import os
import signal
from types import FrameType


class StopRequest:
    """True once SIGTERM or SIGINT arrived, or the launcher (a process id; 0: there is none) is gone."""

    def __init__(self, launcher: int = 0) -> None:
        self.signalled = False
        self.launcher = launcher
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True

    def __call__(self) -> bool:
        return self.signalled or self.launcher not in (0, os.getppid())

"""Environment: what answers within a completion, such as a calculator; pure functions of a state."""

from __future__ import annotations

import abc
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from scaling.tasks.task import Problem

FAILED = "!"  # the reply to what cannot be done


class Reply(NamedTuple):
    """What an environment says.

    state: that the next step begins with. shown: what the policy reads next, before it goes on to write. failed:
    whether it asked for what cannot be done. done: whether the episode ends here.
    """

    state: Hashable
    shown: str
    failed: bool = False
    done: bool = False


class Environment(abc.ABC):
    """Replies to the texts of a policy, which writes until it has written one of `calls`.

    The completion is all that was written and shown, in order; a task's verifier judges it.
    """

    calls: tuple[str, ...] = ()  # texts that hand over

    @abc.abstractmethod
    def reset(self, problem: Problem) -> Hashable:
        """The state at the start of an episode."""

    @abc.abstractmethod
    def step(self, state: Any, text: str) -> Reply:
        """The reply to what was written since the last one; `text` ends with a call."""


class Silence(Environment):
    """Nothing answers: a completion is what the policy writes."""

    def reset(self, problem: Problem) -> Hashable:
        return None

    def step(self, state: Any, text: str) -> Reply:
        raise ValueError(f"nobody was called by {text!r}")

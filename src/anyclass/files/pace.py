"""How often to save."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHARE = 0.05
"""Maximum share of the time that saving takes, unless it is rare; see `Pace`."""


class Pace:
    """When to save: at once where that is cheap, else so that it takes a twentieth of the time."""

    def __init__(self, longest: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin.

        Args:
            longest: seconds without saving, at most.
            clock: seconds since any fixed moment.
        """
        self._longest = longest
        self._clock = clock
        self._saved = clock()
        self._cost = 0.0

    def due(self) -> bool:
        """Whether it is time to save."""
        return self._clock() - self._saved >= min(self._longest, self._cost / SHARE)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure what saving costs."""
        started = self._clock()
        yield
        self._saved = self._clock()
        self._cost = self._saved - started

"""Cancels stale renders: a later change by the same visitor stops the rendering of an earlier one."""

import itertools
from collections.abc import Callable


class Superseded(Exception):
    """The visitor has asked for something else, or has left."""


class Turns:
    """The last turn of every visitor, for each thing that is shown."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._last: dict[tuple[str, str], int] = {}

    def take(
        self, visitor: str, what: str, progress: Callable[[float], object] | None = None
    ) -> Callable[[float], None]:
        """Take the turn of rendering something for a visitor, a session of the page; it ends the one before.

        Returns:
            What to call along the way, a `timm_fractal.data.base.watcher`: it raises `Superseded` when the turn has
            ended, and else tells ``progress`` the fraction of a data set that is rendered.

        Examples:
            >>> turns = Turns()
            >>> first, second = turns.take('a', 'sheet'), turns.take('a', 'sheet')
            >>> second(0.5)
            >>> first(0.5)
            Traceback (most recent call last):
            timm_fractal.explore.turns.Superseded
        """
        key, number = (visitor, what), next(self._numbers)
        self._last[key] = number

        def watch(fraction: float) -> None:
            if self._last.get(key) != number:
                raise Superseded
            if progress is not None:
                progress(fraction)

        return watch

    def forget(self, visitor: str) -> None:
        """End all turns of a visitor who has left."""
        for key in [key for key in self._last if key[0] == visitor]:
            del self._last[key]

"""Cancels stale renders: a later change by the same visitor stops the rendering of an earlier one."""

import itertools
from collections.abc import Callable


class Superseded(Exception):
    """The visitor has requested a later render, or has left."""


class Turns:
    """The last render requested by each visitor, for each part of the page."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._last: dict[tuple[str, str], int] = {}

    def take(
        self, visitor: str, what: str, progress: Callable[[float], object] | None = None
    ) -> Callable[[float], None]:
        """Begin a render of ``what`` for a visitor, which supersedes the previous one.

        Returns:
            A `timm_fractal.data.base.watcher` to call during rendering with the finished fraction: it raises
            `Superseded` after a later render has begun, and otherwise calls ``progress``.

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
        """Cancel all renders of a visitor who has left."""
        for key in [key for key in self._last if key[0] == visitor]:
            del self._last[key]

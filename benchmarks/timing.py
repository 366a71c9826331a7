"""Times functions."""

import statistics
import time
from collections.abc import Callable, Iterable


def epoch_of(loader: Iterable[object]) -> Callable[[], None]:
    """Return a function that iterates over a loader."""

    def run() -> None:
        for _ in loader:
            pass

    return run


def seconds(call: Callable[[], object], synchronize: Callable[[], object] = lambda: None) -> float:
    """Return the time that a call takes."""
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def median_ms(call: Callable[[], object], repeats: int = 9, images: int = 1) -> float:
    """Return the median time of a call in milliseconds per image; the first call is not counted."""
    return 1e3 * statistics.median([seconds(call) for _ in range(repeats + 1)][1:]) / images


def alternate(calls: dict[str, Callable[[], object]], rounds: int, block: int = 1) -> dict[str, list[float]]:
    """Return the times in seconds of several functions, called in turn; the first round is not counted.

    Args:
        calls: The functions.
        rounds: Number of turns.
        block: Number of calls in a turn, since caches are cold after a change of function.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            took = [seconds(call) for _ in range(block)]
            if turn:
                times[name] += took
    return times

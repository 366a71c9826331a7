"""The renderer in plain Python, one pixel at a time: slow, obvious, and independent of the package."""

import math
import random
from collections.abc import Sequence

GRAY = 127


def patch(key: Sequence[int], index: int) -> list[list[int]]:
    """Return the 3 x 3 random patch of a point, with the published constants of the lowbias32 hash."""
    h = (index + int(key[0])) % 2**32
    h ^= h >> 16
    h = h * 0x7FEB352D % 2**32
    h ^= int(key[1])
    h ^= h >> 15
    h = h * 0x846CA68B % 2**32
    h ^= h >> 16
    mask = 1 + ((h >> 9) * 511 >> 23)
    return [[mask >> (3 * i + j) & 1 for j in range(3)] for i in range(3)]


def trajectory(system: Sequence, addresses: Sequence[int]) -> list[tuple[float, float]]:
    x = y = 0.0
    points = [(x, y)]
    for j in addresses:
        (a, b, e), (c, d, f) = ((float(value) for value in row) for row in system[j])
        x, y = a * x + b * y + e, c * x + d * y + f
        points.append((x, y))
    return points


def draw(system: Sequence, addresses: Sequence[int], key: Sequence[int], size: int, kind: str) -> list[list[int]]:
    """Return an image as rows of gray levels."""
    points = trajectory(system, addresses)
    scaled = []
    for axis in (0, 1):
        values = [point[axis] for point in points]
        low, high = min(values), max(values)
        # Stretched by 1e-12, so that rounding does not split points at the edge between two pixels.
        scale = (size - 12) * (1 + 2**-40) / ((high - low) or math.inf)
        scaled.append([math.trunc((value - low) * scale + 6) for value in values])
    image = [[0] * size for _ in range(size)]
    for index, (column, row) in enumerate(zip(*scaled)):
        if kind == 'point':
            image[row][column] = GRAY
            continue
        pixels = patch(key, index) if kind == 'random' else [[1] * 3] * 3
        for i in range(3):
            for j in range(3):
                image[row + 1 + i][column + 1 + j] = GRAY * pixels[i][j]
    return image[::-1]


def uniform(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()

"""Radial contours, after RCDB ("Replacing Labeled Real-image Datasets with Auto-generated Contours", 2206.09132)."""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from timm_fractal.data import Formula, class_generator, option, register


@dataclasses.dataclass(frozen=True)
class RadialContours(Formula):
    """Nested closed polygons. Instances differ in position, radius, aspect ratio and noise."""

    type = 'radial'
    random_position = True

    instances: int = option(1000, 'images per class: different position, radius and noise', low=1, high=1_000_000)
    vertices: int = option(200, 'maximum number of vertices', low=3, high=1000)
    contours: int = option(200, 'maximum number of polygons', low=1, high=1000)
    noise: float = option(4.0, 'maximum amplitude of the noise, in pixels of 512', low=0, high=50)


def render(spec, k, instance, generator):
    rng = class_generator(spec, k)  # parameters shared by all instances of the class
    vertices = min(3 + int(-100 * np.log1p(-rng.random())), spec.vertices)
    contours = 1 + int(spec.contours * rng.random())
    amplitude, spacing = spec.noise * rng.random(), 0.1 * rng.random()

    angles = 2 * np.pi * np.arange(vertices) / vertices
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    radius = int(101 * generator.random()) * (1 + generator.random(2))
    center = 256 + 200 * (2 * generator.random(2) - 1)
    steps = spacing + 2 * amplitude * generator.random((contours, vertices, 2))
    points = center + directions * (radius + steps.cumsum(axis=0))

    image = Image.new('L', (spec.size, spec.size), 'white')
    draw = ImageDraw.Draw(image)
    for polygon, gray in zip(points * spec.size / 512, generator.random(contours)):
        draw.line([*polygon.ravel(), *polygon[0]], fill=int(256 * gray))
    return np.asarray(image)


register(RadialContours, render)

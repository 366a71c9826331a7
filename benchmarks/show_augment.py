"""Draws the augmentation on the device and timm's, with the same parameters.

    python -m benchmarks.show_augment docs/images/device.png

Rows: timm's images; the device's; and in white, pixels that differ. Fractals at the top, crops of a photograph at the
bottom.
"""

import sys

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from tests.paper import AUGMENTATION
from tests.test_augment import generator, pil_train, to_array, to_arrays, to_batch
from timm_fractal.augment import Train
from timm_fractal.data.fractals import Fractal1

COLUMNS, SIZE, GAP = 9, 80, 4


def rows(images: list[Image.Image], seed: int) -> list[np.ndarray]:
    """Return timm's images, the device's and the difference, each (COLUMNS, SIZE, SIZE, 3)."""
    train = Train(SIZE, **AUGMENTATION)
    params = train.make_params(len(images), images[0].height, images[0].width, generator(seed))
    ours = to_arrays(train.apply(torch.cat([to_batch(image) for image in images]), params))
    color = [image.convert('RGB') for image in images]
    timms = [to_array(pil_train(image, params, k, (SIZE, SIZE), (128,) * 3)) for k, image in enumerate(color)]
    difference = np.abs(np.stack(timms) - ours)
    print(f'maximum difference {difference.max()}, pixels that differ {(difference > 0).mean():.4%}')
    return [np.stack(timms), ours, 255 * (difference > 0)]


def main() -> None:
    dataset = Fractal1(f'fractal1/classes={COLUMNS}', input_img_mode='L')
    photo = Image.fromarray(load_sample_image('flower.jpg'))
    lines = rows([dataset[k][0] for k in range(COLUMNS)], 1) + rows([photo] * COLUMNS, 2)
    sheet = np.full((len(lines) * (SIZE + GAP), COLUMNS * (SIZE + GAP), 3), 255, np.uint8)
    for i, line in enumerate(lines):
        for j, image in enumerate(line):
            top, left = i * (SIZE + GAP), j * (SIZE + GAP)
            sheet[top : top + SIZE, left : left + SIZE] = image
    Image.fromarray(sheet).save(sys.argv[1])


if __name__ == '__main__':
    main()

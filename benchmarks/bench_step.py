"""Training steps on one CPU core: the models of the CPU recipes, with options of train.py that make them faster.

    python -m benchmarks.bench_step

Options alternate in one run. bfloat16 is only faster on a CPU that computes with it (AMX, AVX-512 BF16), and for ViTs
only without PyTorch's fused attention, whose backward pass is slow there.
"""

import statistics
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.layers.config import set_fused_attn

from benchmarks.record import Record
from benchmarks.timing import alternate

BATCH, CLASSES, ROUNDS = 128, 100, 5
SIZES = {'test_resnet': 64, 'test_vit': 96, 'vit_tiny_patch16_224': 64}
CNN = {
    'the defaults': {},
    '--channels-last': dict(channels_last=True),
    '--amp --amp-dtype bfloat16': dict(bfloat16=True),
    '--channels-last --amp --amp-dtype bfloat16': dict(channels_last=True, bfloat16=True),
}
VIT = {
    'the defaults': {},
    '--amp --amp-dtype bfloat16': dict(bfloat16=True),
    'TIMM_FUSED_ATTN=0': dict(fused=False),
    'TIMM_FUSED_ATTN=0 --amp --amp-dtype bfloat16': dict(fused=False, bfloat16=True),
}


def step(name: str, channels_last: bool = False, bfloat16: bool = False, fused: bool = True) -> Callable[[], object]:
    """Return a function that trains a model for a step on noise."""
    set_fused_attn(fused)
    size = SIZES[name]
    options: Any = dict(img_size=size) if 'vit' in name else {}
    memory = torch.channels_last if channels_last else torch.contiguous_format
    model = timm.create_model(name, num_classes=CLASSES, **options)
    model.to(memory_format=memory)
    images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=memory)
    labels = torch.randint(CLASSES, (BATCH,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def run() -> None:
        with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
            loss: Any = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    torch.set_num_threads(1)
    what = f'Training steps of {BATCH} images on one CPU core, medians of {ROUNDS} alternating rounds'
    with Record('bench_step', what) as say:
        for name in SIZES:
            options = VIT if 'vit' in name else CNN
            times = alternate({text: step(name, **given) for text, given in options.items()}, ROUNDS)
            for text, took in times.items():
                ratio = statistics.median(usual / own for usual, own in zip(times['the defaults'], took))
                rate = BATCH / statistics.median(took)
                line = f'{name:20} {text:44} {rate:5.0f} samples/s, {ratio:.2f} times'
                say(line, what=f'{name}, {text}', samples_per_s=rate, ratio=ratio)


if __name__ == '__main__':
    main()

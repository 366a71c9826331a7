"""Registers, spilled bytes and instructions per tap of the Triton kernels, compiled without a GPU.

    python -m benchmarks.count_instructions [--capability 90]

The kernels of a mega-batch with the paper's recipe are compiled but not launched. Prints registers per thread and
spilled bytes of each kernel; for the two passes of a resize, also the instructions per pixel of the result in the loop
over taps.
"""

import argparse
import math
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

# Triton reads it at import.
os.environ.pop('TRITON_INTERPRET', None)

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from benchmarks.count_traffic import make_loader, run
from benchmarks.record import Record
from timm_fractal.augment import batch, kernels_triton

TOOLS = Path(triton.__file__).parent / 'backends/nvidia/bin'
WARP = 32
# Pixels per program: the product of the first two numbers of its tile.
TILES = {
    f'_resize, axis {axis}': math.prod(getattr(kernels_triton, name)[:2])
    for axis, name in enumerate(('_TILE_DOWN', '_TILE_ACROSS'))
}


class Driver:
    """A fake driver, so that kernels are compiled for a GPU."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget('cuda', self.capability, WARP)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(capability: int) -> dict[str, Any]:
    """Return the kernels of a mega-batch by name."""
    found: dict[str, Any] = {}
    original = jit.JITFunction.run

    def compile_only(self: Any, *args: Any, warmup: bool, **options: Any) -> Any:
        kernel = original(self, *args, warmup=True, **options)
        # The two passes of a resize are different kernels that differ only in addresses.
        found[f'_resize, axis {args[-1]}' if self.__name__ == '_resize' else self.__name__] = kernel
        return kernel

    driver.set_active(Driver(capability))
    jit.JITFunction.run = compile_only
    batch.kernels = lambda device: kernels_triton
    run(make_loader())
    return found


def tool(name: str, option: str, code: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(code)
        file.flush()
        command = [str(TOOLS / name), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def longest_inner_loop(code: bytes) -> int:
    """Return the number of instructions in the longest innermost loop."""
    places: list[int] = []
    jumps: list[tuple[int, int]] = []
    for line in tool('cuobjdump', '-sass', code).splitlines():
        if match := re.match(r'\s+/\*([0-9a-f]{4,})\*/\s+(.*?);', line):
            place, text = int(match[1], 16), match[2]
            places.append(place)
            if target := re.search(r'\bBRA\b.*?(0x[0-9a-f]+)', text):
                jumps.append((int(target[1], 16), place))
    # Not the jump to itself at the end of a program.
    loops = [(start, end) for start, end in jumps if start < end]
    inner = [
        (start, end)
        for start, end in loops
        if not any(start <= first and last <= end and (first, last) != (start, end) for first, last in loops)
    ]
    return max((sum(start <= place <= end for place in places) for start, end in inner), default=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--capability', type=int, default=90, help='compute capability of the GPU (90: H100)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    kernels = compiled(args.capability)
    with Record(
        'count_instructions', f"The kernels of a mega-batch with the paper's recipe, sm_{args.capability}"
    ) as say:
        for name, kernel in sorted(kernels.items()):
            code = kernel.asm['cubin']
            usage = dict(re.findall(r'(REG|STACK|LOCAL):(\d+)', tool('cuobjdump', '--dump-resource-usage', code)))
            registers, spilled = int(usage['REG']), int(usage['STACK']) + int(usage['LOCAL'])
            text = f'{name:20} {registers:4} registers, {spilled} bytes spilled'
            figures: dict[str, Any] = dict(what=name, registers=registers, spilled=spilled)
            if name in TILES:
                threads = WARP * kernel.metadata.num_warps
                body = longest_inner_loop(code)
                figures['per_tap'] = body * threads / TILES[name]
                text += f', {figures["per_tap"]:.1f} instructions per pixel in the loop over taps'
            say(text, **figures)


if __name__ == '__main__':
    main()

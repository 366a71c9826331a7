"""``python -m timm_fractal`` is the console script ``timm-fractal``."""

import sys

from .cli import main

if __name__ == '__main__':
    sys.exit(main())

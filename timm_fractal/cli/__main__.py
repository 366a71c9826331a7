"""``python -m timm_fractal.cli`` is the console script ``timm-fractal``."""

import sys

from .main import main

if __name__ == '__main__':
    sys.exit(main())

"""The console script ``timm-fractal``."""

from .main import main

__all__ = ['main']

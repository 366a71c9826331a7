"""The console script ``timm-fractal``: a person at a terminal."""

from .main import main

__all__ = ['main']

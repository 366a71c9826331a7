"""The explorer of timm-fractal as a Space."""

from timm_fractal.explore.page import launch

# A Space is reached through a proxy, which expects it at this port of any address of its container.
launch('fractal1', host='0.0.0.0', port=7860)

"""Patches of timm, applied right after the import of ``timm.data`` and ``timm.models``.

The patches and their reasons are listed in `timm_fractal.plugin.data` and `timm_fractal.plugin.models`. Nothing here
imports timm.
"""

from .import_hook import Hook

HOOKS = (
    Hook('timm.data', 'create_dataset', f'{__name__}.data', 'data sets'),
    Hook('timm.models', 'create_model', f'{__name__}.models', 'weights'),
)


def register() -> None:
    """Register the data sets and weights of this package with timm, now or when timm is imported.

    Called by ``import timm_fractal``; calling it again does nothing.
    """
    for hook in HOOKS:
        hook.arm()


def unregister() -> None:
    """Undo `register`: restore timm."""
    for hook in HOOKS:
        hook.disarm()

"""Entry point of the group ``torch.backends``: lets an unedited training script know the data sets.

torch calls it at the end of ``import torch``, since 2.5; ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` switches that off.
Importing this module has run ``timm_fractal/__init__.py``, which arms a hook on ``timm.data``; there is nothing left to
do, and nothing heavy has been imported.
"""


def autoload() -> None:
    """Do nothing: the import of the package has armed the hook."""

"""Private names of timm that are read; what is patched stands in `timm_fractal.plugin`.

* ``timm.models._hub.save_config_for_hf`` (checked with timm 1.0.12, 1.0.20 and 1.0.31): `timm.models.save_for_hf` is
  not there in 1.0.12, and in 1.0.20 it refuses to work beside a huggingface_hub that is newer than it knows.
"""

from pathlib import Path
from typing import Any


def save_config(model: Any, path: Path, model_args: dict[str, Any], **more: Any) -> None:
    """Write ``config.json`` as timm does for the Hub, from which it builds the same model again.

    Args:
        model: Its ``pretrained_cfg`` says what is known about the weights.
        path: The file.
        model_args: What the architecture is given to be this model.
        more: Other entries of the file.
    """
    from timm.models._hub import save_config_for_hf

    # It opens the path, so a word would not do.
    save_config_for_hf(model, path, model_config=more, model_args=model_args)  # type: ignore[arg-type]

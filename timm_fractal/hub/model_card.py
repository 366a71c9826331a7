"""The model card of exported weights."""

from typing import Any

from ..spec import SPECS

#: Stands for the repository's name until the weights are published.
REPOSITORY = 'OWNER/NAME'

#: The picture of a card, beside it.
CURVES = 'curves.png'

#: What the front matter of a complete card says.
FIELDS = ('library_name', 'pipeline_tag', 'license', 'datasets', 'tags')

_CITATION = """@inproceedings{nakamura2024scaling,
  title     = {Scaling Backwards: Minimal Synthetic Pre-training?},
  author    = {Nakamura, Ryo and Tadokoro, Ryu and Yamada, Ryosuke and Asano, Yuki M. and Laina, Iro and
               Rupprecht, Christian and Inoue, Nakamasa and Yokota, Rio and Kataoka, Hirokatsu},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2024}
}"""

# What is said about a training, and how the card calls it.
_WORDS = {
    'dataset': 'Data set',
    'samples': 'Samples seen',
    'epochs': 'Epochs',
    'loss': 'Final training loss',
    'weights': 'Weights',
    'stored_as': 'Stored as',
    'recipe': 'Recipe',
    'hardware': 'Hardware',
    'exported_with': 'Exported with',
    'converted_from': 'Converted from',
    'sha256_of_original': 'sha256 of that file',
}

_USAGE = """```python
import timm

model = timm.create_model('hf-hub:{repository}', pretrained=True, num_classes=10)  # a new head
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
```"""


def card(name: str, cfg: dict[str, Any], provenance: dict[str, Any], curves: bool = False) -> str:
    """Write a model card.

    Args:
        name: Architecture and tag.
        cfg: timm's configuration of input and head.
        provenance: How the weights came to be.
        curves: Whether there is a picture of curves beside it.

    Examples:
        >>> text = card('test_vit.x', {'license': 'mit', 'num_classes': 0}, {'dataset': 'fractal1'})
        >>> text.splitlines()[1:3]
        ['datasets:', '- fractal1']
    """
    from huggingface_hub import ModelCardData

    dataset = str(provenance.get('dataset', 'unknown'))
    front = ModelCardData(
        library_name='timm',
        pipeline_tag='image-classification' if cfg['num_classes'] else 'image-feature-extraction',
        license=cfg['license'],
        datasets=[dataset.partition('/')[0]],
        tags=['timm', 'timm-fractal', 'synthetic-data'],
    )
    said = [f'- {words}: {_value(provenance[key])}' for key, words in _WORDS.items() if provenance.get(key) is not None]
    parts = [
        f'---\n{front.to_yaml()}\n---',
        f'# Model card for {name}',
        _introduction(dataset, provenance),
        '## How it was trained',
        '\n'.join(said),
        _input(cfg),
    ]
    parts += ['## Results', _table(provenance.get('results') or {})]
    parts += [f'![what was measured]({CURVES})'] * curves
    parts += ['## Usage', _USAGE.format(repository=REPOSITORY)]
    parts += ['## Citation', f'```bibtex\n{_CITATION}\n```']
    return '\n\n'.join(parts) + '\n'


_TIMM = '[timm](https://github.com/huggingface/pytorch-image-models)'


def _introduction(dataset: str, provenance: dict[str, Any]) -> str:
    kind = dataset.partition('/')[0]
    if kind in SPECS:
        what = 'from one image' if SPECS[kind].reads == 'images' else 'without a photograph'
        return (
            f'Weights for {_TIMM}, pre-trained {what}: on `{dataset}`, a data set that timm-fractal renders. They are '
            f'meant as a start for fine-tuning; the classes of the head are artificial.'
        )
    if 'converted_from' in provenance:
        return (
            f'Weights for {_TIMM}, converted from a file of others: the tensors are theirs, the names and the '
            f"configuration are timm's."
        )
    return f'Weights for {_TIMM}, trained on `{dataset}`.'


def _input(cfg: dict[str, Any]) -> str:
    keys = ('input_size', 'mean', 'std', 'interpolation', 'num_classes')
    return 'Input and head: ' + ', '.join(f'{key} {_value(cfg[key])}' for key in keys if key in cfg) + '.'


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{key} {item}' for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ' x '.join(str(item) for item in value) if all(isinstance(v, int) for v in value) else str(list(value))
    if isinstance(value, float):
        return f'{value:.4g}'
    return f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(results: dict[str, Any]) -> str:
    if not results:
        return 'None measured.'
    rows = [f'| {name} | {value} |' for name, value in results.items()]
    return '\n'.join(['| what | measured |', '|---|---|', *rows])

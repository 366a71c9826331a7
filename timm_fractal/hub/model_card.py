"""Writes the model card of exported weights."""

import html
import math
import re
from typing import Any

from ..spec import SPECS

#: Image file of a card, in the same folder.
CURVES = 'curves.png'

#: Required fields of the front matter.
FIELDS = ('library_name', 'pipeline_tag', 'license', 'tags')

_CITATION = """@inproceedings{nakamura2024scaling,
  title     = {Scaling Backwards: Minimal Synthetic Pre-training?},
  author    = {Nakamura, Ryo and Tadokoro, Ryu and Yamada, Ryosuke and Asano, Yuki M. and Laina, Iro and
               Rupprecht, Christian and Inoue, Nakamasa and Yokota, Rio and Kataoka, Hirokatsu},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2024}
}"""

# Labels of the facts about a training.
_WORDS = {
    'dataset': 'Data set',
    'samples': 'Samples seen',
    'epochs': 'Epochs',
    'loss': 'Final training loss',
    'metric': 'Validation during training',
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

model = timm.create_model('{place}', pretrained=True{head})
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
```"""

# The folder in `_USAGE`, which `published` replaces by a repository.
_PLACE = re.compile(r"(?<=create_model\(')local-dir:[^'\n]*(?=')")


def card(
    name: str, cfg: dict[str, Any], provenance: dict[str, Any], curves: bool = False, folder: str = 'FOLDER'
) -> str:
    """Write a model card.

    Args:
        name: Architecture and tag.
        cfg: timm's configuration of input and head.
        provenance: How the weights were trained. Its text is escaped, since it may come from an untrusted file.
        curves: Whether there is an image of curves in the same folder.
        folder: Name of the card's folder.

    Examples:
        >>> text = card('test_vit.x', {'license': 'mit', 'num_classes': 0}, {'dataset': 'fractal1'})
        >>> text.splitlines()[1:4]
        ['library_name: timm', 'license: mit', 'pipeline_tag: image-feature-extraction']
    """
    from huggingface_hub import EvalResult, ModelCardData

    dataset = str(provenance.get('dataset') or '')
    kind = dataset.partition('/')[0]
    is_ours = kind in SPECS
    began = provenance.get('started_from') or {}
    results = provenance.get('results') or {}
    metrics = [
        EvalResult('image-classification', _slug(what), _text(what), 'accuracy', number, metric_name='top-1 accuracy')
        for what, number in ((what, _number(value)) for what, value in results.items())
        if number is not None and _slug(what)
    ]
    synthetic = ['synthetic-data', kind] if is_ours and SPECS[kind].reads != 'images' else [kind] if is_ours else []
    front = ModelCardData(
        base_model=began.get('hub_id') or None,
        datasets=_hub_datasets(dataset) or None,
        eval_results=metrics or None,
        library_name='timm',
        license=cfg['license'],
        model_name=name if metrics else None,
        pipeline_tag='image-classification' if cfg['num_classes'] else 'image-feature-extraction',
        tags=['timm', 'timm-fractal', *synthetic],
    )
    said = [f'- {words}: {_value(provenance[key])}' for key, words in _WORDS.items() if provenance.get(key) is not None]
    if began:
        said.insert(min(1, len(said)), f'- Started from: {_lineage(began)}')
    place = f'local-dir:{re.sub(r"[^ -~]|[^A-Za-z0-9_. -]", "_", folder)}'
    # The classes of rendered images are not useful for inference.
    head = ', num_classes=10' if is_ours and cfg['num_classes'] else ''
    parts = [
        f'---\n{front.to_yaml()}\n---',
        f'# Model card for {name}',
        _introduction(dataset, provenance, bool(cfg['num_classes'])),
        '## How it was trained',
        '\n'.join(said),
        _input(cfg),
        '## Results',
        _table(results),
    ]
    parts += [f'![measurements]({CURVES})'] * curves
    parts += ['## Usage', _USAGE.format(place=place, head=head)]
    began_on = str(began.get('dataset') or '').partition('/')[0]
    if is_ours or began_on in SPECS or 'converted_from' in provenance:
        parts += ['## Citation', f'```bibtex\n{_CITATION}\n```']
    return '\n\n'.join(parts) + '\n'


def published(card: str, repo_id: str) -> str:
    """Replace the folder in the text of a card by the repository.

    Examples:
        >>> published("timm.create_model('local-dir:x', pretrained=True)", 'me/x')
        "timm.create_model('hf-hub:me/x', pretrained=True)"
    """
    return _PLACE.sub(f'hf-hub:{repo_id}', card)


_TIMM = '[timm](https://github.com/huggingface/pytorch-image-models)'


def _introduction(dataset: str, provenance: dict[str, Any], head: bool) -> str:
    kind = dataset.partition('/')[0]
    if kind in SPECS:
        what = 'from photographs' if SPECS[kind].reads == 'images' else 'without photographs'
        return (
            f'Weights for {_TIMM}, pre-trained on {_text(dataset)}, a data set that timm-fractal renders {what}. They '
            f'are a starting point for fine-tuning' + ('; the classes of the head are artificial.' if head else '.')
        )
    if 'converted_from' in provenance:
        return (
            f"Weights for {_TIMM}, converted from the authors' file: the tensors are unchanged, names and "
            f"configuration are timm's."
        )
    began = provenance.get('started_from')
    return f'Weights for {_TIMM}, {"fine-tuned" if began else "trained"} on {_text(dataset)}.'


def _lineage(began: dict[str, Any]) -> str:
    more = f', pre-trained on {_text(began["dataset"])}' if began.get('dataset') else ''
    return _text(began.get('weights', '')) + more


def _hub_datasets(dataset: str) -> list[str]:
    """Return data sets that the Hub can link to: those that timm reads as ``hfds/OWNER/NAME``."""
    kind, _, place = dataset.partition('/')
    return [place] if kind == 'hfds' and re.fullmatch(r'[\w.-]+/[\w.-]+', place, re.ASCII) else []


def _input(cfg: dict[str, Any]) -> str:
    keys = ('input_size', 'mean', 'std', 'interpolation', 'num_classes')
    return 'Input and head: ' + ', '.join(f'{key} {_value(cfg[key])}' for key in keys if key in cfg) + '.'


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{_text(key)} {_text(item)}' for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ' x '.join(str(item) for item in value) if all(isinstance(v, int) for v in value) else str(list(value))
    if isinstance(value, float):
        return f'{value:.4g}'
    return f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _text(value: Any) -> str:
    r"""Escape untrusted text for Markdown: one line without markup.

    Examples:
        >>> _text('x\n# a_b <c>')
        'x \\# a_b &lt;c&gt;'
    """
    words = html.escape(' '.join(str(value).split())[:1000], quote=False)
    return re.sub(r'([\\`*\[\]#|~!]|(?<!\w)_|_(?!\w))', r'\\\1', words)


def _slug(what: str) -> str:
    """Convert a name to the Hub's form for data sets."""
    return re.sub(r'[^A-Za-z0-9]+', '-', what).strip('-').lower()[:96]


def _number(value: Any) -> float | None:
    try:
        number = float(str(value).strip().removesuffix('%'))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _table(results: dict[str, Any]) -> str:
    if not results:
        return 'None given.'
    rows = [f'| {_text(name)} | {_text(value)} |' for name, value in results.items()]
    return '\n'.join(['| benchmark | result |', '|---|---|', *rows])

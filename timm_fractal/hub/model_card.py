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

# What a folder in `_USAGE` cannot have in its name.
_UNQUOTABLE = re.compile(r"""['"\\\x00-\x1f\x7f]""")

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
        EvalResult('image-classification', slug, _text(what), 'accuracy', number, metric_name='top-1 accuracy')
        for what, value in results.items()
        if (number := _number(value)) is not None and (slug := re.sub(r'[^a-z0-9]+', '-', what.lower()).strip('-')[:96])
    ]
    tags = ['timm', 'timm-fractal']
    if is_ours:
        tags += [kind] if SPECS[kind].reads == 'images' else ['synthetic-data', kind]
    # The Hub can link to data sets that timm reads as hfds/OWNER/NAME.
    on_hub = re.fullmatch(r'hfds/([\w.-]+/[\w.-]+)', dataset, re.ASCII)
    front = ModelCardData(
        base_model=began.get('hub_id') or None,
        datasets=[on_hub[1]] if on_hub else None,
        eval_results=metrics or None,
        library_name='timm',
        license=cfg['license'],
        model_name=name if metrics else None,
        pipeline_tag='image-classification' if cfg['num_classes'] else 'image-feature-extraction',
        tags=tags,
    )
    said = [f'- {words}: {_value(provenance[key])}' for key, words in _WORDS.items() if provenance.get(key) is not None]
    if began:
        more = f', pre-trained on {_text(began["dataset"])}' if began.get('dataset') else ''
        said.insert(min(1, len(said)), f'- Started from: {_text(began.get("weights", ""))}{more}')
    place = f'local-dir:{_UNQUOTABLE.sub("_", folder)}'
    keys = ('input_size', 'mean', 'std', 'interpolation', 'num_classes')
    shape = ', '.join(f'{key} {_value(cfg[key])}' for key in keys if key in cfg)
    table = ['| benchmark | result |', '|---|---|']
    table += [f'| {_text(benchmark)} | {_text(value)} |' for benchmark, value in results.items()]
    # The classes of rendered images are not useful for inference.
    head = ', num_classes=10' if is_ours and cfg['num_classes'] else ''
    parts = [
        f'---\n{front.to_yaml()}\n---',
        f'# Model card for {name}',
        _introduction(dataset, provenance, bool(cfg['num_classes'])),
        '## How it was trained',
        '\n'.join(said),
        f'Input and head: {shape}.',
    ]
    if results:
        parts += ['## Results', '\n'.join(table)]
    parts += [f'![measurements]({CURVES})'] * curves
    parts += ['## Usage', _USAGE.format(place=place, head=head)]
    began_on = str(began.get('dataset') or '').partition('/')[0]
    if is_ours or began_on in SPECS or 'converted_from' in provenance:
        parts += ['## Citation', f'```bibtex\n{_CITATION}\n```']
    return '\n\n'.join(parts) + '\n'


def published(card: str, repo_id: str) -> str:
    """Replace the folder in a model card with the repository.

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
        words = "converted from the authors' file: the tensors are unchanged, names and configuration are timm's."
        return f'Weights for {_TIMM}, {words}'
    how = 'fine-tuned' if provenance.get('started_from') else 'trained'
    return f'Weights for {_TIMM}, {how} on {_text(dataset)}.'


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


def _number(value: Any) -> float | None:
    try:
        number = float(str(value).strip().removesuffix('%'))
    except ValueError:
        return None
    return number if math.isfinite(number) else None

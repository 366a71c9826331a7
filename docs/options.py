"""Write tables into pages: options of data sets, and keys of sweep files, from what checks them.

    python docs/options.py

Between ``<!-- options of NAME -->`` or ``<!-- keys of NAME -->`` and the next ``<!-- end -->`` of a page stands what
this makes; a test compares them.
"""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from timm_fractal.spec import SPECS

sys.path.insert(0, str(Path(__file__).parents[1] / 'train_scripts'))
import sweep_schema  # noqa: E402

PAGE = Path(__file__).parent / 'datasets.md'
SWEEPS = PAGE.with_name('sweeps.md')
MARKED = re.compile(r'(<!-- (?:options|keys) of (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


def valid(field: 'dataclasses.Field[Any]') -> str:
    """The words that an option can be, or the range of its numbers."""
    rules = field.metadata
    if rules['choices']:
        return ', '.join(f'`{word}`' for word in rules['choices'])
    signs = {'low': '≥', 'above': '>', 'high': '≤', 'below': '<'}
    parts = [f'{sign} {number(rules[rule])}' for rule, sign in signs.items() if rules[rule] is not None]
    return ', '.join(parts)


def number(value: float) -> str:
    return f'{value:,}'


def keys(model: 'type[sweep_schema.Strict]') -> str:
    rows = ['| key | meaning |', '|---|---|']
    for name, field in model.model_fields.items():
        meaning = field.description or ''
        if field.is_required():
            meaning += ' (required)'
        elif field.default and not isinstance(field.default, sweep_schema.Strict):
            meaning += f' (default: {field.default})'
        rows.append(f'| `{name}` | {meaning.strip()} |')
    return '\n'.join(rows) + '\n'


def table(kind: str) -> str:
    if kind not in SPECS.built_in:
        return keys(getattr(sweep_schema, kind))
    rows = ['| option | default | valid | meaning |', '|---|---|---|---|']
    for field in SPECS[kind].fields():
        rows.append(f'| `{field.name}` | {field.default} | {valid(field)} | {field.metadata["doc"]} |')
    return '\n'.join(rows) + '\n'


def filled(text: str) -> str:
    """The page, with its tables as they should be."""
    return MARKED.sub(lambda match: match[1] + '\n' + table(match[2]) + '\n' + match[3], text)


if __name__ == '__main__':
    for page in (PAGE, SWEEPS):
        page.write_text(filled(page.read_text()))

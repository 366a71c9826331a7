"""Writes the generated parts of pages: options of data sets, keys of sweep files, and the API reference.

    python docs/options.py

The text between ``<!-- options of NAME -->`` or ``<!-- keys of NAME -->`` and the next ``<!-- end -->`` is generated;
``api.md`` is generated from the lists of public names. A test checks that they are up to date.
"""

import dataclasses
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import timm_fractal
from timm_fractal.spec import SPECS

sys.path.insert(0, str(Path(__file__).parents[1] / 'train_scripts'))
import sweep_schema  # noqa: E402

PAGE = Path(__file__).parent / 'datasets.md'
SWEEPS = PAGE.with_name('sweeps.md')
REFERENCE = PAGE.with_name('api.md')
MARKED = re.compile(r'(<!-- (?:options|keys) of (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


def valid(field: 'dataclasses.Field[Any]') -> str:
    """Format the valid words of an option, or the range of its numbers."""
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
    """Return the page with updated tables."""
    return MARKED.sub(lambda match: match[1] + '\n' + table(match[2]) + '\n' + match[3], text)


_ABOUT = """# API reference

These names are public: import them from the module that lists them. Before a name is removed, it is deprecated with a
warning for one minor release. All other modules are internal and may change at any time.
"""


def reference() -> str:
    """Return the page of all public names, each once: data sets are also names of the package itself."""
    public = {name: getattr(timm_fractal, name) for name in timm_fractal.__all__}
    parts = {name: thing for name, thing in public.items() if isinstance(thing, ModuleType)}
    own = [name for name in public if name not in parts and name != '__version__']
    text = [_ABOUT, _section('timm_fractal', own)]
    for name, module in parts.items():
        text.append(
            _section(f'timm_fractal.{name}', [each for each in module.__all__ if each not in own or each == 'register'])
        )
    return '\n'.join(text)


def _section(module: str, names: list[str]) -> str:
    return f'## `{module}`\n\n' + '\n'.join(f'::: {module}.{name}\n' for name in names)


if __name__ == '__main__':
    REFERENCE.write_text(reference())
    for page in (PAGE, SWEEPS):
        page.write_text(filled(page.read_text(encoding='utf-8')), encoding='utf-8')

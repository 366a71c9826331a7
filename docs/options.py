"""Write the tables of options into the page of data sets, from the specifications.

    python docs/options.py

Between ``<!-- options of NAME -->`` and the next ``<!-- end -->`` of the page stands what this makes; a test compares
them.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from timm_fractal.spec import SPECS

PAGE = Path(__file__).parent / 'datasets.md'
MARKED = re.compile(r'(<!-- options of (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


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


def table(kind: str) -> str:
    rows = ['| option | default | valid | meaning |', '|---|---|---|---|']
    for field in dataclasses.fields(SPECS[kind]):
        rows.append(f'| `{field.name}` | {field.default} | {valid(field)} | {field.metadata["doc"]} |')
    return '\n'.join(rows) + '\n'


def filled(text: str) -> str:
    """The page, with its tables as they should be."""
    return MARKED.sub(lambda match: match[1] + '\n' + table(match[2]) + '\n' + match[3], text)


if __name__ == '__main__':
    PAGE.write_text(filled(PAGE.read_text()))

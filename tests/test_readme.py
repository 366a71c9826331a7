"""What the README says is so."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from timm_fractal import parse_name
from timm_fractal.spec import SPECS

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
PAGES = [ROOT / 'README.md', ROOT / 'train_scripts' / 'README.md']


@pytest.mark.parametrize('kind', ['fractal1', 'image1'])
def test_options_are_those_of_the_specification(kind):
    section = README.split(f'### `{kind}`\n')[1].split('\n#')[0]
    rows = re.findall(r'^\| `(\w+)` \| (\S+) \| .* \| (.*) \|$', section, re.MULTILINE)
    expected = [(field.name, str(field.default), field.metadata['doc']) for field in dataclasses.fields(SPECS[kind])]
    assert rows == expected


def test_options_of_the_other_data_sets():
    section = README.split('### `ofdb`, `fractaldb`, `visualatom`, `noise1`\n')[1].split('\n#')[0]
    rows = re.findall(r'^\| `(\w+)`: `(\w+)` \| (\S+) \|', section, re.MULTILINE)
    assert all(str(SPECS[kind]().__dict__[name]) == default for kind, name, default in rows)
    common = set(re.findall(r'`(\w+)`', section.split('as above')[0])) - set(SPECS)
    for kind in ('ofdb', 'fractaldb'):
        options = {field.name for field in dataclasses.fields(SPECS[kind])}
        assert options == common | {name for type_, name, _ in rows if type_ == kind}


def test_every_data_set_is_in_the_table():
    table = README.split('## The data sets\n')[1].split('\n\n!')[0]
    assert {name.split('/')[0] for name in re.findall(r'^\| `(\S+)`', table, re.MULTILINE)} == set(SPECS)


def test_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    snippets = re.findall(r'^```python\n(.*?)^```', README, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 4
    for snippet in snippets:
        exec(snippet, names)
    assert len(names['again']) == 100 and names['again'][7][0] == names['dataset'][7][0]


def test_the_snippet_of_the_recipes_runs():
    names: dict[str, object] = {}
    (snippet,) = re.findall(r'^```python\n(.*?)^```', PAGES[1].read_text(), re.MULTILINE | re.DOTALL)
    exec(snippet, names)
    assert names['batch'].shape == (8, 3, 224, 224) and abs(names['batch'].mean()) < 0.5


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.parent.name)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    links = [link.partition('#')[0] for link in re.findall(r'\]\(([^)]+)\)', text) if not link.startswith('http')]
    files = re.findall(r'(?:train_scripts/)?[\w/]+\.(?:yaml|sh)\b', text)
    folders = (page.parent, page.parent / 'sweeps', ROOT)
    missing = [name for name in links + files if not any((folder / name).exists() for folder in folders)]
    assert not missing


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.parent.name)
def test_data_sets_that_are_named_exist(page):
    names = re.findall(r'--dataset (\w+1\S*|ofdb|fractaldb|visualatom)', page.read_text())
    assert names
    for name in names:
        parse_name(re.split('[`)]', name)[0].replace('=K', '=3'))


def test_make_targets_that_are_named_exist():
    targets = re.findall(r'^(\w[\w-]*):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    named = {shlex.split(line)[1] for line in re.findall(r'^make [\w-]+', README, re.MULTILINE)}
    assert named == {'demo', 'test', 'test-all'} and named <= set(targets)

"""What the README says is so."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from timm_fractal import Fractal1Spec, parse_name

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
PAGES = [ROOT / 'README.md', ROOT / 'train_scripts' / 'README.md']


def test_options_are_those_of_the_specification():
    rows = re.findall(r'^\| `(\w+)` \| (\S+) \| .* \| (.*) \|$', README, re.MULTILINE)
    expected = [(field.name, str(field.default), field.metadata['doc']) for field in dataclasses.fields(Fractal1Spec)]
    assert rows == expected


def test_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    snippets = re.findall(r'^```python\n(.*?)^```', README, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        exec(snippet, names)
    assert len(names['again']) == 100 and names['again'][7][0] == names['dataset'][7][0]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.parent.name)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r'\]\(([^)]+)\)', text) if not link.startswith('http')]
    files = re.findall(r'(?:train_scripts/)?[\w/]+\.(?:yaml|sh)\b', text)
    missing = [name for name in links + files if not any((folder / name).exists() for folder in (page.parent, ROOT))]
    assert not missing


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.parent.name)
def test_data_sets_that_are_named_exist(page):
    names = re.findall(r'--dataset (fractal1\S*)', page.read_text())
    assert names
    for name in names:
        parse_name(name.strip('`'))


def test_make_targets_that_are_named_exist():
    targets = re.findall(r'^(\w[\w-]*):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    named = {shlex.split(line)[1] for line in re.findall(r'^make \w+', README, re.MULTILINE)}
    assert named == {'demo', 'test'} and named <= set(targets)

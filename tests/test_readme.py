"""Claims, commands and links in the README and docs."""

import importlib
import json
import re
import shlex
import statistics
import sys
from pathlib import Path

import pytest

from timm_fractal import parse_name
from timm_fractal.cli.main import make_parser
from timm_fractal.hub.manifest import manifest
from timm_fractal.spec import SPECS

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
DOCS = ROOT / 'docs'
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'train_scripts/README.md', *sorted(DOCS.glob('*.md'))]

sys.path.insert(0, str(DOCS))
import options  # noqa: E402


def each_page(function):
    return pytest.mark.parametrize('page', PAGES, ids=lambda page: f'{page.parent.name}-{page.stem}')(function)


def blocks(text, language=''):
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.MULTILINE | re.DOTALL)


def commands(page):
    """Return the commands in code blocks without a language, with continued lines joined and comments removed."""
    text = ''.join(blocks(page.read_text())).replace('\\\n', ' ')
    return [line.partition('  #')[0].strip() for line in text.splitlines() if line.strip()]


def test_tables_of_options_are_those_of_the_specifications():
    """The whole tables: defaults, ranges and words."""
    page = options.PAGE.read_text()
    assert {kind for _, kind, _ in options.MARKED.findall(page)} == set(SPECS.built_in)
    assert options.filled(page) == page, 'python docs/options.py'
    sweeps = options.SWEEPS.read_text()
    tables = {kind for _, kind, _ in options.MARKED.findall(sweeps)}
    assert tables == {'File', 'Training', 'Images', 'Rest', 'Gain', 'Finding', 'Row', 'Cost'}
    assert options.filled(sweeps) == sweeps, 'python docs/options.py'


def test_a_table_that_lacks_a_row_or_a_range_is_noticed():
    page = options.PAGE.read_text()
    for wrong in (
        page.replace('| `delta` | 0.1 | ≥ 0, < 1 |', '| `delta` | 0.1 | |', 1),
        re.sub(r'\| `sigma`.*\n', '', page),
    ):
        assert wrong != page and options.filled(wrong) == page


@pytest.mark.parametrize('text', [README, options.PAGE.read_text()], ids=['README', 'datasets'])
def test_every_data_set_is_in_the_table(text):
    rows = re.findall(r'^\| \[?`([\w/=]+)`', text.split('| name |')[1].split('\n\n')[0], re.MULTILINE)
    assert {name.split('/')[0] for name in rows} == set(SPECS.built_in)


@each_page
def test_python_snippets_run(page, tmp_path, monkeypatch, types):
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in blocks(page.read_text(), 'python'):
        exec(snippet, names)
    if page.stem == 'datasets':
        assert len(names['again']) == 100 and names['again'][7][0] == names['dataset'][7][0]
    if page.stem == 'device-loader':
        assert names['batch'].shape == (8, 3, 224, 224) and abs(names['batch'].mean()) < 0.5
    if page.stem == 'own_formula':
        assert names['image'].size == (64, 64) and names['label'] == 7
    if page.stem == 'shape':
        assert names['warped'].size == names['image'].size


@each_page
def test_files_that_are_named_exist(page):
    text = page.read_text()
    links = [link.partition('#')[0] for link in re.findall(r'\]\(([^)\s]+)\)', text) if not link.startswith('http')]
    files = re.findall(r'(?:train_scripts/)?[\w/]+\.(?:yaml|sh|py)\b', text)
    # Files of timm, Python and the user.
    theirs = (
        'train.py',
        'validate.py',
        'args.yaml',
        'avg_checkpoints.py',
        'clean_checkpoint.py',
        'inference.py',
        '__init__.py',
    )
    files = [name for name in files if not name.endswith(theirs)]
    rooms = [
        ROOT / 'train_scripts',
        ROOT / 'train_scripts/sweeps',
        ROOT / 'timm_fractal',
        ROOT / 'examples/own_formula',
        DOCS,
        *ROOT.glob('timm_fractal/*'),
    ]
    missing = [name for name in links if name and not (page.parent / name).exists()]
    missing += [name for name in files if not any((folder / name).exists() for folder in [ROOT, page.parent, *rooms])]
    assert not missing


@each_page
def test_anchors_that_are_named_exist(page):
    for target, anchor in re.findall(r'\]\(([\w/.-]*)#([\w-]+)\)', page.read_text()):
        text = README if target == 'index.md' else (page.parent / target).read_text() if target else page.read_text()
        titles = [
            re.sub(r'[^\w -]', '', title).strip().lower() for title in re.findall(r'^#+ (.*)', text, re.MULTILINE)
        ]
        assert anchor in {title.replace(' ', '-') for title in titles} or target == 'api.md'


@each_page
def test_data_sets_that_are_named_exist(page):
    for name in re.findall(r'--dataset (\w+1\S*|ofdb|fractaldb|visualatom\S*)', page.read_text()):
        parse_name(re.split('[`)]', name)[0].replace('=K', '=3'))


@each_page
def test_commands_of_the_console_are_understood(page):
    for line in commands(page):
        if line.startswith('timm-fractal '):
            make_parser().parse_args(shlex.split(line)[1:])


@each_page
def test_make_targets_that_are_named_exist(page):
    targets = re.findall(r'^(\w[\w-]*):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    named = {shlex.split(line)[1] for line in commands(page) if line.startswith('make ')}
    named |= set(re.findall(r'`make ([\w-]+)', page.read_text()))
    assert named <= set(targets)


def test_ci_runs_commands_of_the_readme():
    lines = (ROOT / '.ci/run').read_text().splitlines()[2:]
    assert lines and all(f'`{line}`' in README or f'\n{line}\n' in README for line in lines)


@each_page
def test_modules_that_are_run_exist(page):
    for module in re.findall(r'python -m ([\w.]+)', page.read_text()):
        if module.startswith('benchmarks'):
            assert (ROOT / (module.replace('.', '/') + '.py')).is_file()


def test_the_reference_has_every_public_name():
    assert options.reference() == options.REFERENCE.read_text(), 'python docs/options.py'
    named = re.findall(r'^::: ([\w.]+)$', options.REFERENCE.read_text(), re.MULTILINE)
    assert {'timm_fractal.Fractal1', 'timm_fractal.data.create', 'timm_fractal.hub.publish'} <= set(named)
    for name in named:
        module, _, attribute = name.rpartition('.')
        assert getattr(importlib.import_module(module), attribute) is not None


@each_page
def test_no_page_for_users_names_a_file_of_the_package(page):
    """Files may move. Only pages for contributors name them."""
    if page.stem not in ('CONTRIBUTING', 'contributing', 'architecture'):
        assert not re.findall(r'timm_fractal/\w+', page.read_text())


def figures(page, name):
    """Return the means in the rows of a condition on a results page, by table."""
    return [
        re.findall(r' ([\d.]+)(?: ±[^|]*)? \(\d', row) for row in re.findall(rf'^\| {name} \|.*', page, re.MULTILINE)
    ]


def test_the_figures_of_the_readme_are_those_of_the_results():
    page = (DOCS / 'results.md').read_text()
    sections = {text.partition('\n')[0]: text for text in re.split(r'\n## ', page)[1:]}
    default, fractals = sections['The default fractal'], sections['Which fractal']
    table = re.search(r'\| \| scratch .*?\n\n', README, re.DOTALL).group()
    said = list(zip(*(re.findall(r'([\d.]+) %', row) for row in table.splitlines()[2:5]), strict=True))
    for means, name in zip(said, ('from scratch', 'seed 20', '100 fractals'), strict=True):
        assert tuple(figures(default, name)[0]) == means
        assert re.search(rf'^\| {name} \|(.* \(3, 6\)){{3}}', default, re.MULTILINE)
    ranges = re.search(r'digits-20: ([\d.]+) to ([\d.]+).*cifar10-50: ([\d.]+) to ([\d.]+),', fractals).groups()
    worst, best, worst_cifar, best_cifar = map(float, ranges)
    told = ' '.join(README.split())
    scratch, scratch_cifar = (f'{mean("fractals", "scratch", task, 0):.0f} %' for task in ('digits-20', 'cifar10-50'))
    assert f'(from scratch {scratch} and {scratch_cifar})' in told
    table = (DOCS / 'weights.md').read_text()
    for shots, steps in ((20, 400), ('1,000', '2,400')):
        scratch, ours = re.search(rf'\| CIFAR-10, {shots}, {steps} \| ([\d.]+ %) \| ([\d.]+ %) \|', table).groups()
        assert f'{ours} with {shots}' in told and f'(from scratch {scratch})' in told
    assert f'reach {best:.0f} % on digits and {best_cifar} % on CIFAR-10' in told
    assert f'the worst {worst:.0f} % and {worst_cifar:.0f} %' in told


def test_the_figures_of_the_cnn_are_those_of_the_results():
    results = (DOCS / 'results.md').read_text().partition('\n## A small CNN\n')[2].partition('\n## ')[0]
    gains = re.search(r"^\| seed 20, the paper's augmentation vs. from scratch \|(.*)", results, re.MULTILINE).group(1)
    cifar, fashion, emoji = re.findall(r'\| (?:\*\*)?([+-][\d.]+)', f'|{gains}')
    told = f'{cifar} points on CIFAR-10, {fashion} on Fashion-MNIST and {emoji} on emoji'
    assert told in ' '.join((DOCS / 'your_images.md').read_text().split())
    cifar, fashion, emoji = map(float, (cifar, fashion, emoji))
    concluded = (DOCS / 'results.md').read_text().partition('\n\n![')[0]
    assert f'raises it further, by {cifar:.0f} points on CIFAR-10 and {fashion:.0f} on Fashion-MNIST' in concluded
    assert f'on emoji, held out, it gains {emoji} points' in concluded
    assert re.findall(r'\| (\*\*)?[+-][\d.]+', f'|{gains}') == ['', '**', '']


QUICK_START = re.compile(r'^\| ([\w-]+).*? \| (\d+).*? \| ([\d.]+) % \| ([\d.]+) % \| ([+-][\d.]+) \|$', re.MULTILINE)


def test_the_conclusion_on_more_images_is_that_of_the_quick_start():
    rows = {f'{data} {shots}': (*map(float, said),) for data, shots, *said in QUICK_START.findall(README)}
    gains = {name: round(gain) for name, (*_, gain) in rows.items()}
    cifar, fashion = gains['CIFAR-10 20'], gains['Fashion-MNIST 20']
    assert (gains['CIFAR-10 50'], gains['Fashion-MNIST 50']) == (cifar, fashion)
    told = (
        f'{cifar} points with 20 or 50 images per class of CIFAR-10, {gains["CIFAR-10 200"]} with 200 and five times '
        f'the steps; on Fashion-MNIST {fashion} points, and nothing with 200. On both, 20 images per class with '
        f'pre-training are worth about 50 without.'
    )
    assert told in (DOCS / 'results.md').read_text()
    assert gains['Fashion-MNIST 200'] <= 0
    assert all(abs(rows[f'{data} 20'][1] - rows[f'{data} 50'][0]) < 1 for data in ('CIFAR-10', 'Fashion-MNIST'))


def mean(sweep, condition, task, seed, finetune_seeds=range(100)):
    """Return the mean of the results of a condition, a pre-training seed and fine-tuning seeds."""
    lines = map(json.loads, (ROOT / 'train_scripts' / 'results' / f'{sweep}.jsonl').read_text().splitlines())
    return statistics.fmean(
        line['eval_top1']
        for line in lines
        if (line['condition'], line.get('finetune'), line['seed']) == (condition, task, seed)
        and line['finetune_seed'] in finetune_seeds
    )


def test_the_table_of_the_quick_start_is_that_of_the_runs():
    """A row has the same examples and fine-tuning seeds in both columns."""
    rows = QUICK_START.findall(README)
    assert len(rows) == 7
    for data, shots, *said in rows:
        task = f'{dict(CIFAR="cifar10").get(data[:5], data.partition("-")[0].lower())}-{shots}'
        scratch, tag = ('scratch', 'paper-aug-1m') if shots == '50' else ('scratch-0', 'test_resnet.fractal1_100')
        scratch, ours = (mean('cnn', condition, task, 3 if shots == '50' else 0) for condition in (scratch, tag))
        assert said == [f'{scratch:.1f}', f'{ours:.1f}', f'{ours - scratch:+.1f}'], task


def test_the_figures_of_the_weights_are_those_of_the_results():
    weights = (DOCS / 'results.md').read_text().partition('\n## Published weights')[2].partition('\n## ')[0]
    table = re.search(r'\| images per class, steps \|.*?\n\n', (DOCS / 'weights.md').read_text(), re.DOTALL).group()
    names = [cell.strip(' `') for cell in table.splitlines()[0].split('|')[2:-1]]
    assert names == ['from scratch', *(name for name in manifest() if name.startswith('test_vit.'))]
    rows = [re.findall(r'([\d.]+) %', line) for line in table.splitlines()[2:] if line]
    for name, said in zip(names, zip(*rows, strict=True), strict=True):
        few, more, *end, unseen = figures(weights, 'test_vit from scratch' if name == 'from scratch' else name)
        assert list(said) == [*unseen, *few[:2], *more, few[2]], name
        # Of the longest training, which only two of them have.
        assert all(f'{top1} %' in (DOCS / 'weights.md').read_text() for [top1] in end)


def test_the_figures_of_vit_tiny_are_those_of_the_runs():
    """Both columns have the same fine-tuning seeds."""
    tag = 'vit_tiny_patch16_224.fractal1_1k'
    header = f'| images per class, steps | ViT-Tiny from scratch | `{tag}` |\n'
    table = (DOCS / 'weights.md').read_text().partition(header)[2].partition('\n\n')[0]
    rows = re.findall(r'^\| (224 pixels: )?([\w-]+), (\d+), \d+ \| ([\d.]+) % \| ([\d.]+) % \|$', table, re.MULTILINE)
    assert len(rows) == 8
    gains: list[list[float]] = [[], []]
    for large, data, shots, *said in rows:
        name = data.lower().replace('cifar-10', 'cifar10').partition('-')[0]
        task = f'tiny{"224" * bool(large)}-{name}-{shots}'
        scratch, ours = (mean('weights', condition, task, 0, (0, 1)) for condition in ('tiny-scratch', tag))
        assert said == [f'{scratch:.1f}', f'{ours:.1f}'], task
        gains[bool(large)].append(ours - scratch)
    told = ' and '.join(
        f'{min(each):.0f} to {max(each):.0f}{where}' for each, where in zip(gains, (' points at 64 pixels', ' at 224'))
    )
    emoji = {row[0]: row[3:] for row in rows if row[1] == 'emoji'}
    (scratch, ours), (scratch_224, ours_224) = emoji[''], emoji['224 pixels: ']
    told_readme = ' '.join(README.split())
    assert f'{ours} % on emoji (held out) at 64 pixels, from scratch {scratch} %;' in told_readme
    assert f'at 224 pixels {ours_224} and {scratch_224} %' in told_readme
    assert f'{ours} % (from scratch {scratch} %; the CNN' in ' '.join((DOCS / 'your_images.md').read_text().split())
    assert f'gains {told}, also on held-out data' in (DOCS / 'results.md').read_text()

"""Writes the results page: tables and plots of sweeps from their JSON lines."""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import sweep_population
from sweep_compare import RATE, Comparisons, answer, forest, gains_of, summary
from sweep_file import Results, Sweep, canonical, key_of
from sweep_schema import Finding, Row

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402

Line = dict[str, Any]

#: The plot at the top of the page.
SUMMARY = 'summary.png'


class Table:
    """The results of a sweep that match its current file."""

    def __init__(self, sweep: Sweep, lines: list[Line]) -> None:
        self.sweep = sweep
        self.tasks: list[str] = list(sweep.file.finetune)
        keys = [job.key for unit in sweep.units for job in unit.jobs]
        wanted = {key_of(key) for key in keys}
        #: The fine-tunings in the sweep file, by condition and task.
        self.asked = {(key['condition'], key['finetune']) for key in keys if 'finetune' in key}
        kept: dict[tuple[Any, ...], Line] = {}
        for line in lines:
            if (key := key_of(line)) in wanted:
                kept.setdefault(key, line)
        self.lines = list(kept.values())
        #: Lines with settings that differ from the file, and further lines of the same training.
        self.stale = sum(key_of(line) not in wanted for line in lines)
        self.repeated = len(lines) - len(kept) - self.stale
        self.wanted, self.missing = len(wanted), len(wanted) - len(kept)
        #: Top-1 by condition, task, (seed of pre-training, seed of fine-tuning).
        self.top1: dict[str, dict[str, dict[tuple[int, int], float]]] = defaultdict(lambda: defaultdict(dict))
        self.pretrained: dict[str, list[Line]] = defaultdict(list)
        #: Epochs and top-1 during each fine-tuning, by condition and task.
        self.curves: dict[str, dict[str, list[list[tuple[int, float]]]]] = defaultdict(lambda: defaultdict(list))
        for line in self.lines:
            check(line)
            if line.get('finetune') is None:
                self.pretrained[line['condition']].append(line)
            else:
                runs = self.top1[line['condition']][line['finetune']]
                runs[line['seed'], line['finetune_seed']] = line['eval_top1']
                if 'curve' in line:
                    self.curves[line['condition']][line['finetune']].append(line['curve'])

    def tasks_of(self, finding: Finding) -> list[str]:
        """Return the fine-tunings of a finding, by default all."""
        return self.tasks if finding.tasks is None else finding.tasks

    def row(self, row: Row) -> str:
        """Return the name of a row in tables and plots."""
        return row.label or self.label(row.condition)

    def label(self, condition: str) -> str:
        """Return the label of a condition, or its name."""
        return self.sweep.file.conditions[condition].label or condition

    def name(self, condition: str) -> str:
        """Return the data set of a condition for a table."""
        own = self.sweep.file.conditions[condition].given
        if 'dataset' in own:
            return f'`{canonical(own["dataset"])}`'
        return f'`{own["data"]}`' if 'data' in own else ''  # For published weights, it is on their card.

    def samples(self, condition: str) -> str:
        """Return the pre-training samples; in parentheses if it has not been run."""
        own = self.sweep.file.conditions[condition]
        found = {line['samples'] for line in self.pretrained[condition]}
        if not found and own.trains:
            samples = own.samples or self.sweep.file.pretrain.samples
            return f'({samples:,})' if samples else 'not yet run'
        return ', '.join(f'{n:,}' for n in sorted(found))

    def cell(self, condition: str, task: str) -> str:
        """Return mean and standard deviation over all runs, with the numbers of seeds and runs."""
        runs = self.top1[condition][task]
        if not runs:
            return 'not yet run' if (condition, task) in self.asked else '-'
        seeds = len({seed for seed, _ in runs})
        spread = f' ± {stdev(runs.values()):.1f}' if len(runs) > 1 else ''
        return f'{fmean(runs.values()):.1f}{spread} ({seeds}, {len(runs)})'

    def own_task(self, condition: str) -> str:
        """Return the pre-training's top-1 on its validation split, and its loss."""
        lines = self.pretrained[condition]
        if not lines:
            return 'not yet run' if self.sweep.file.conditions[condition].trains else ''
        loss = f'loss {fmean(line["train_loss"] for line in lines):.2f}'
        tops = [line['eval_top1'] for line in lines if 'eval_top1' in line]
        return f'{fmean(tops):.1f} %, {loss}' if tops else loss


def check(line: Line) -> None:
    """Check the figures of a result.

    Raises:
        ValueError: One is missing or not a finite number.
    """
    tuning = line.get('finetune')
    for key in ('samples', 'seconds', 'train_loss' if tuning is None else 'eval_top1'):
        value = line.get(key)
        if type(value) not in (int, float) or not math.isfinite(value):
            place = f'{line["sweep"]}.jsonl, {line["condition"]}, seed {line["seed"]}'
            place += '' if tuning is None else f', {tuning}, seed {line["finetune_seed"]}'
            raise ValueError(f'{place}: {key} must be a finite number, got {value!r:.100}')


def plot_name(table: Table, finding: Finding) -> str:
    """Return the name of the file with the plot of a finding."""
    words = '-'.join(''.join(c if c.isalnum() else ' ' for c in finding.title.lower()).split())
    return f'{table.sweep.name}-{words[:40].strip("-")}.png'


def all_rows(table: Table, finding: Finding) -> list[Row]:
    """Return the rows of a finding, including those of its population."""
    if not finding.population:
        return finding.rows
    shown = sweep_population.shown(table, finding, table.tasks_of(finding))
    return finding.rows + [Row(condition=condition) for condition in shown]


def section(table: Table, finding: Finding, plot: str, comparisons: Comparisons) -> str:
    """Format a finding as Markdown: question, plot and limits, and its tables, which are folded."""
    tasks = table.tasks_of(finding)
    rows = all_rows(table, finding)
    heads = ['pre-training', 'samples', 'own task', *tasks, 'paper']
    lines = []
    for row in rows:
        cells = [table.row(row), table.samples(row.condition), table.own_task(row.condition)]
        cells += [table.cell(row.condition, task) for task in tasks]
        lines.append([*cells, '' if row.published is None else str(row.published)])
    out = [f'### {finding.title}', '', finding.question, '', f'![{finding.title}]({plot})', '', finding.limits, '']
    out += ['<details markdown="1"><summary>Figures</summary>', '', *markdown_table(heads, lines)]
    labels = {row.condition: table.row(row) for row in rows}
    if finding.expect:
        lines = [
            [f'{labels[better]} vs. {labels[worse]}'] + [comparisons.cell(table, better, worse, task) for task in tasks]
            for better, worse in finding.expect
        ]
        out += ['', *markdown_table(['difference', *tasks], lines)]
    if finding.population:
        out += ['', *sweep_population.describe(table, finding, tasks)]
    names = {table.row(row): table.name(row.condition) for row in rows}
    if any(names.values()):
        out += ['', 'Data sets: ' + '; '.join(f'{label}: {name}' for label, name in names.items() if name) + '.']
    return '\n'.join([*out, '', '</details>', ''])


def markdown_table(heads: list[str], lines: list[list[str]]) -> list[str]:
    """Format a table without its empty columns."""
    kept = [n for n in range(len(heads)) if any(cells[n] for cells in lines)]
    rows = ['| ' + ' | '.join(cells[n] for n in kept) + ' |' for cells in [heads, *lines]]
    return [rows[0], '|' + '---|' * len(kept), *rows[1:]]


def data_of(table: Table, finding: Finding) -> str:
    """Return a digest of the data in a plot, which is stored in the file."""
    tasks = table.tasks_of(finding)
    shown: dict[str, Any] = {
        row.condition: [
            [[*key, top1] for key, top1 in sorted(table.top1[row.condition][task].items())] for task in tasks
        ]
        for row in all_rows(table, finding)
    }
    if finding.population:
        shown |= {
            condition: [sweep_population.seed_means(table, condition, task) for task in tasks]
            for condition in sweep_population.members(table, finding, tasks)
        }
    if finding.curves:
        curves = [table.curves[row.condition] for row in finding.rows]
        shown['curves'] = [{task: runs[task] for task in tasks if task in runs} for runs in curves]
    return hashlib.sha256(json.dumps([finding.given, shown], sort_keys=True).encode()).hexdigest()


def draw(table: Table, finding: Finding, path: Path) -> None:
    """Plot a finding, with a panel per fine-tuning."""
    tasks = table.tasks_of(finding)
    size = (4 * len(tasks), 3.4)
    figure, panels = plt.subplots(1, len(tasks), figsize=size, layout='constrained', squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        panel.set_title(task, fontsize='medium')
        panel.set_ylabel('top-1 (%)')
        if finding.population:
            sweep_population.draw(table, finding, task, panel)
        elif finding.curves:
            draw_curves(table, finding.rows, task, panel)
        else:
            draw_points(table, finding, task, panel)
    # One legend for all panels, outside of them.
    found = [pair for panel in panels[0] for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    if labels := {label: handle for handle, label in found}:
        columns = 4 if len(tasks) > 1 else 1
        figure.legend(labels.values(), labels, loc='outside lower center', ncols=columns, fontsize='small')
    figure.savefig(path, dpi=80, metadata={'Description': data_of(table, finding)})
    plt.close(figure)


def draw_points(table: Table, finding: Finding, task: str, panel: Any) -> None:
    """Plot top-1 on a task: lines for rows with ``x`` or a series, else bars."""
    lines: dict[str, list[tuple[float, list[float]]]] = defaultdict(list)
    bars = []
    for row in finding.rows:
        values = list(table.top1[row.condition][task].values())
        if not values:
            continue
        x = row.x
        if x == 'samples':
            x = next((line['samples'] for line in table.pretrained[row.condition]), None)
        if x is not None:
            lines[row.series or ''].append((float(x), values))
        elif row.x is None and finding.axis:
            panel.axhline(fmean(values), color='gray', ls='--', label=table.row(row))
        elif not finding.axis:
            bars.append((table.row(row), values))
    for series, points in lines.items():
        points.sort()
        means, spreads = zip(*(mean_and_spread(values) for _, values in points), strict=True)
        panel.errorbar([x for x, _ in points], means, spreads, marker='o', capsize=3, label=series or None)
    for place, (_, values) in enumerate(bars):
        panel.bar(place, fmean(values), color='tab:gray' if place == 0 else 'tab:blue', alpha=0.5)
        beside = [place + 0.3 * (n / max(1, len(values) - 1) - 0.5) for n in range(len(values))]
        panel.plot(beside, values, '.', color='black')
    if bars:
        panel.set_xticks(range(len(bars)), [label for label, _ in bars], rotation=30, ha='right', fontsize='small')
    if finding.axis:
        panel.set_xlabel(finding.axis)
        if finding.log:
            panel.set_xscale('log')
            # Only powers of ten get labels: there is no room between them.
            panel.xaxis.set_minor_formatter(NullFormatter())


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation, which is 0 for one value."""
    return fmean(values), stdev(values) if len(values) > 1 else 0


def draw_curves(table: Table, rows: list[Row], task: str, panel: Any) -> None:
    """Plot top-1 during the fine-tunings of a task: mean and standard deviation over runs with equal epochs."""
    steps = table.sweep.file.finetune[task].steps
    for number, row in enumerate(rows):
        curves = table.curves[row.condition][task]
        if not curves:
            continue
        epochs = [epoch for epoch, _ in curves[0]]
        values = [[top1 for _, top1 in curve] for curve in curves if [epoch for epoch, _ in curve] == epochs]
        x = [steps * epoch / epochs[-1] for epoch in epochs] if steps else epochs
        found = [mean_and_spread(column) for column in zip(*values, strict=True)]
        color = 'tab:gray' if number == 0 else f'C{number - 1}'
        panel.plot(x, [mean for mean, _ in found], marker='.', color=color, label=table.row(row))
        low, high = ([mean + sign * spread for mean, spread in found] for sign in (-1, 1))
        panel.fill_between(x, low, high, color=color, alpha=0.15)
    panel.set_xlabel(f'fine-tuning {"step" if steps else "epoch"}')


def introduction(table: Table) -> str:
    """Describe a sweep: its purpose, the trainings run, hardware and hours."""
    file = table.sweep.file
    hours = sum(line['seconds'] for line in table.lines) / 3600
    out = [f'## {file.title}', '', file.about, '']
    if not table.lines:
        return '\n'.join([*out, f'Not yet run: none of {table.wanted} trainings.', ''])
    hardware = sorted({line['hardware'] for line in table.lines})
    versions = sorted({', '.join(f'{k} {v}' for k, v in line['versions'].items()) for line in table.lines})
    out.append(
        f'{len(table.lines)} of {table.wanted} trainings have been run, {hours:.1f} hours in total, '
        f'on {"; ".join(hardware)} ({"; ".join(versions)}).'
    )
    ran = {line['condition'] for line in table.lines}
    if left := [name for name in dict.fromkeys(unit.condition for unit in table.sweep.units) if name not in ran]:
        out.append(f'Not yet run: {"; ".join(table.label(name) for name in left)}.')
    return '\n'.join([*out, ''])


ABOUT_SUMMARY = """
**Bold**: clear even though many comparisons are made, so that an interval without zero is not enough. \\* Fewer \
than three pre-training seeds, no interval. "Held out": neither fractals nor recipes were chosen on this data. Real \
images are labeled and from CIFAR-10 itself.
"""

ABOUT_FIGURES = """\
<details markdown="1"><summary>How to read the figures</summary>

- This page is generated by `{command}`.
- Figures are top-1 accuracy in percent on test images: mean ± standard deviation over all runs, followed by the \
numbers of pre-training seeds and runs in parentheses. Rows with different numbers of seeds average over \
different runs; those with one pre-training seed, (1, ...), are preliminary.
- "Own task" is the accuracy of pre-training on its validation split (chance is 100 % divided by the number of \
classes), and the final training loss.
- Differences are between runs with the same seeds: mean, 95 % interval (Student's t over at least three \
pre-training seeds), and the number of runs in which the first is better. **Bold**: clear, at a false discovery \
rate of {rate:.0%} (Benjamini and Hochberg) over the {judged} comparisons with an interval on this page.
- All seeds of a row use the same fractals or photograph, and the same fine-tuning examples; the intervals do \
not cover these choices.
"""

ABOUT_PAPER = """\
- The paper's figures are top-1 of ViT-Tiny at 224 pixels after 61 million samples, fine-tuned on CIFAR-100: a \
different scale and data set.
"""


def link(heading: str) -> str:
    """Link to a heading of the same page."""
    return f'[{heading}](#{re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")})'


def page(tables: list[Table], comparisons: Comparisons, folder: str, results: Path) -> str:
    """Format the page as Markdown; ``folder`` has its plots, ``results`` its JSON lines."""
    paths = ' '.join(str(table.sweep.path) for table in tables)
    command = f'python train_scripts/sweep.py report {paths} --results {results}'
    out = ['# Results', '']
    findings = [finding for table in tables for finding in table.sweep.file.findings]
    if conclusions := [f'- {each.conclusion} ({link(each.title)})' for each in findings if each.conclusion is not None]:
        out += [*conclusions, '']
    if gains := gains_of(tables):
        out += [answer(gains, comparisons), '', f'![gain over training from scratch]({folder}/{SUMMARY})', '']
        out += ['Points of top-1 accuracy above training from scratch, ± half of the 95 % interval:', '']
        out += [*summary(gains, comparisons), ABOUT_SUMMARY]
    about = ABOUT_FIGURES.format(command=command, rate=RATE, judged=comparisons.judged)
    if any(row.published is not None for finding in findings for row in finding.rows):
        about += ABOUT_PAPER
    out += [about, '</details>', '']
    for table in tables:
        out.append(introduction(table))
        for finding in table.sweep.file.findings:
            out.append(section(table, finding, f'{folder}/{plot_name(table, finding)}', comparisons))
    return '\n'.join(out).rstrip() + '\n'


def write(sweeps: list[Sweep], results: Path, path: Path) -> None:
    """Write the page and its plots."""
    tables = []
    for sweep in sweeps:
        file = results / f'{sweep.name}.jsonl'
        for key in ('title', 'about'):
            if getattr(sweep.file, key) is None:
                raise ValueError(f'{sweep.path}: {key} must be given for a report')
        if not file.exists():
            raise ValueError(f'no such file: {file}; run the sweep first, or give its folder with --results')
        tables.append(Table(sweep, Results(file).read()))
    folder = path.parent / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        for count, what in (
            (table.stale, 'with settings that differ from the sweep file'),
            (table.repeated, 'that repeat a training'),
        ):
            if count:
                print(f'{table.sweep.name}: ignored {count} lines {what}')
        for finding in table.sweep.file.findings:
            if table.lines:
                draw(table, finding, folder / plot_name(table, finding))
    comparisons = Comparisons(tables)
    if gains := gains_of(tables):
        figure = forest(gains, comparisons)
        figure.savefig(folder / SUMMARY, dpi=80)
        plt.close(figure)
    path.write_text(page(tables, comparisons, path.stem, results), encoding='utf-8')
    print(path)

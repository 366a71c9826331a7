"""Comparisons of conditions, and the summary of the page: a table and a forest plot of gains."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import false_discovery_control, ttest_1samp

if TYPE_CHECKING:
    from sweep_report import Table
    from sweep_schema import Gain

#: Minimum number of pre-training seeds for an interval.
ENOUGH = 3

#: False discovery rate of the comparisons that count as shown.
RATE = 0.05


# Sweep, better condition, worse condition, fine-tuning.
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Comparison:
    """The difference in top-1 between two conditions, over runs with the same seeds.

    Attributes:
        mean: Mean difference, in points.
        low: Lower end of its 95 % interval (Student's t over the pre-training seeds); NaN with fewer than `ENOUGH`.
        high: Upper end.
        p: p-value of no difference; NaN likewise.
        wins: Number of runs in which the first condition is better.
        runs: Number of runs.
    """

    mean: float
    low: float
    high: float
    p: float
    wins: int
    runs: int


def compare(table: 'Table', better: str, worse: str, task: str) -> Comparison | None:
    """Compare two conditions on a fine-tuning; None if they have no runs with the same seeds."""
    ours, theirs = table.top1[better][task], table.top1[worse][task]
    differences = {key: ours[key] - theirs[key] for key in sorted(ours.keys() & theirs.keys())}
    if not differences:
        return None
    seeds = sorted({seed for seed, _ in differences})
    by_seed = [fmean(value for (seed, _), value in differences.items() if seed == wanted) for wanted in seeds]
    low = high = p = math.nan
    # The test is undefined for equal differences, up to rounding errors.
    if len(by_seed) >= ENOUGH and max(by_seed) - min(by_seed) > 1e-9:
        test = ttest_1samp(by_seed, 0)
        (low, high), p = test.confidence_interval(), float(test.pvalue)
    wins = sum(value > 0 for value in differences.values())
    return Comparison(fmean(differences.values()), float(low), float(high), p, wins, len(differences))


class Comparisons:
    """All comparisons of a page, tested together."""

    def __init__(self, tables: Iterable['Table']) -> None:
        self.found: dict[Key, Comparison] = {}
        for table in tables:
            wanted = []
            for finding in table.sweep.file.findings:
                wanted += [(*pair, task) for pair in finding.expect for task in table.tasks_of(finding)]
            for gain in table.sweep.file.summary:
                wanted += [(start, gain.against, gain.task) for start in gain.starts.values()]
            for better, worse, task in wanted:
                if (comparison := compare(table, better, worse, task)) is not None:
                    self.found[table.sweep.name, better, worse, task] = comparison
        judged = {key: comparison.p for key, comparison in self.found.items() if not math.isnan(comparison.p)}
        rates = false_discovery_control(list(judged.values())) if judged else []
        #: The comparisons with a difference, at `RATE`.
        self.shown = {key for key, rate in zip(judged, rates, strict=True) if rate <= RATE}
        self.judged = len(judged)

    def cell(self, table: 'Table', better: str, worse: str, task: str, short: bool = False) -> str:
        """Format a comparison for a table, in bold if it is shown."""
        key = table.sweep.name, better, worse, task
        if key not in self.found:
            return 'not yet run' if {(better, task), (worse, task)} <= table.asked else '-'
        found = self.found[key]
        mean = f'**{found.mean:+.1f}**' if key in self.shown else f'{found.mean:+.1f}'
        if math.isnan(found.p):
            interval = '\\*'
        else:
            interval = f' ± {(found.high - found.low) / 2:.1f}' if short else f' [{found.low:+.1f}, {found.high:+.1f}]'
        return mean + interval + ('' if short else f', {found.wins} of {found.runs}')


Gains = list[tuple['Table', 'Gain']]


def gains_of(tables: Iterable['Table']) -> Gains:
    """Return the rows of the summary, with their sweeps."""
    return [(table, gain) for table in tables for gain in table.sweep.file.summary]


def _starts(gains: Gains) -> list[str]:
    return list(dict.fromkeys(start for _, gain in gains for start in gain.starts))


def _key(table: 'Table', gain: 'Gain', start: str) -> Key:
    return table.sweep.name, gain.starts.get(start, ''), gain.against, gain.task


def _task(gain: 'Gain') -> str:
    return f'{gain.title}{" (held out)" if gain.held_out else ""}; {gain.model}'


def answer(gains: Gains, comparisons: Comparisons) -> str:
    """Return the summary in one sentence."""
    keys = [_key(table, gain, start) for table, gain in gains for start in gain.starts]
    found = [key for key in keys if key in comparisons.found]
    higher = sum(comparisons.found[key].mean > 0 for key in found)
    judged = sum(not math.isnan(comparisons.found[key].p) for key in found)
    shown = sum(key in comparisons.shown and comparisons.found[key].mean > 0 for key in found)
    return (
        f'Pre-training was better than training from scratch, with the same images and steps, in {higher} of '
        f'{len(found)} comparisons. It was clearly better (bold) in {shown}, of the {judged} with three pre-training '
        'seeds or more.'
    )


def summary(gains: Gains, comparisons: Comparisons) -> list[str]:
    """Format the summary as a Markdown table: a row per task, a column per start, differences to scratch."""
    starts = _starts(gains)
    signs: dict[str, list[tuple[bool, bool]]] = {start: [] for start in starts}
    rows = [['', 'from scratch', *starts], ['---'] * (len(starts) + 2)]
    for table, gain in gains:
        level = table.top1[gain.against][gain.task].values()
        cells = [f'{fmean(level):.1f} %' if level else 'not yet run']
        for start in starts:
            condition = gain.starts.get(start)
            if condition is None:
                cells.append('')
                continue
            cells.append(comparisons.cell(table, condition, gain.against, gain.task, short=True))
            key = _key(table, gain, start)
            if key in comparisons.found:
                signs[start].append((comparisons.found[key].mean > 0, key in comparisons.shown))
        rows.append([_task(gain), *cells])
    verdicts = [
        f'higher in {sum(up for up, _ in found)} of {len(found)}, {sum(sure for _, sure in found) or "none"} clear'
        for found in signs.values()
    ]
    rows.append(['all', '', *verdicts])
    return ['| ' + ' | '.join(cells) + ' |' for cells in rows]


def forest(gains: Gains, comparisons: Comparisons) -> Figure:
    """Plot the summary: differences to training from scratch with their 95 % intervals, a row per task."""
    starts = _starts(gains)
    figure, panel = plt.subplots(figsize=(9, 1.2 + 0.45 * len(gains)), layout='constrained')
    panel.axvline(0, color='gray', lw=0.8)
    for row, (table, gain) in enumerate(gains):
        for place, start in enumerate(gain.starts):
            if (found := comparisons.found.get(_key(table, gain, start))) is None:
                continue
            height, color = row + 0.2 * (place - (len(gain.starts) - 1) / 2), f'C{starts.index(start)}'
            if math.isnan(found.p):
                panel.plot(found.mean, height, 'o', mfc='white', color=color, ms=5)
            else:
                panel.plot([found.low, found.high], [height, height], color=color)
                panel.plot(found.mean, height, 'o', color=color, ms=5)
    for place, start in enumerate(starts):
        panel.plot([], [], 'o-', color=f'C{place}', ms=5, label=start)
    panel.set_yticks(range(len(gains)), [_task(gain) for _, gain in gains])
    panel.invert_yaxis()
    panel.grid(axis='x', alpha=0.4)
    figure.supxlabel(
        'points of top-1 above training from scratch; hollow: fewer than three pre-training seeds, no interval',
        fontsize='medium',
    )
    figure.legend(loc='outside upper center', ncols=3, fontsize='small', frameon=False)
    return figure

"""Findings about a population: many conditions that differ in one random choice, such as the fractal."""

from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import f as fisher
from scipy.stats import spearmanr
from sweep_schema import Finding

if TYPE_CHECKING:
    from sweep_report import Table

#: Number of best and worst members in the table.
SHOWN = 5


def members(table: 'Table', finding: Finding, tasks: list[str]) -> list[str]:
    """Return the conditions of the population with all fine-tunings run, best first (by mean rank)."""
    found = [
        condition
        for condition in table.sweep.file.conditions
        if condition.startswith(str(finding.population)) and all(table.top1[condition][task] for task in tasks)
    ]
    ranks = [np.argsort(np.argsort([-seed_means(table, condition, task)[0] for condition in found])) for task in tasks]
    order = np.argsort(np.mean(ranks, axis=0), kind='stable') if found else []
    return [found[place] for place in order]


def shown(table: 'Table', finding: Finding, tasks: list[str]) -> list[str]:
    """Return the members in the table: the best, then the worst."""
    every = members(table, finding, tasks)
    return every if len(every) <= 2 * SHOWN else every[:SHOWN] + every[-SHOWN:]


def describe(table: 'Table', finding: Finding, tasks: list[str]) -> list[str]:
    """Describe the population: spread, agreement of the tasks, and the share of variance between members."""
    every = members(table, finding, tasks)
    if len(every) < 3:
        return []
    top1 = {task: [seed_means(table, condition, task)[0] for condition in every] for task in tasks}
    spread = '; '.join(
        f'{task}: {min(values):.1f} to {max(values):.1f}, median {median(values):.1f}' for task, values in top1.items()
    )
    out = [f'- Over {len(every)} of them (first pre-training seed): {spread}.']
    if len(tasks) == 2:
        rho = spearmanr(*top1.values())[0]
        out.append(f'- Rank correlation of {" and ".join(tasks)}: Spearman {rho:.2f}.')
    parts = []
    for task in tasks:
        by_seed = [seed_means(table, condition, task) for condition in every]
        repeated = [means for means in by_seed if len(means) >= 3]
        if len(repeated) >= 3:
            share, low, high = variance_share(np.array([means[:3] for means in repeated]))
            parts.append(f'{task}: {share:.0%} ({low:.0%} to {high:.0%}, {len(repeated)} of them)')
    if parts:
        out.append(
            '- Share of the variance between them; the rest is due to the pre-training seed (three seeds of each, '
            f'one-way analysis of variance, 95 % interval). {"; ".join(parts)}.'
        )
    return out


def seed_means(table: 'Table', condition: str, task: str) -> list[float]:
    """Return the top-1 of each pre-training seed in order, mean over the fine-tuning seeds."""
    runs = table.top1[condition][task]
    return [
        fmean(top1 for (seed, _), top1 in runs.items() if seed == wanted)
        for wanted in sorted({seed for seed, _ in runs})
    ]


def variance_share(values: 'np.ndarray[tuple[int, int], np.dtype[np.float64]]') -> tuple[float, float, float]:
    """Return the intraclass correlation of values of shape (groups, repetitions), and its 95 % interval, from 0 to 1.

    Examples:
        >>> values = np.array([[1.0, 1.1, 0.9], [5.0, 5.1, 4.9], [9.0, 9.1, 8.9]])
        >>> share, low, high = variance_share(values)
        >>> 0.9 < low < share < high <= 1
        True
    """
    groups, times = values.shape
    between = times * values.mean(1).var(ddof=1)
    within = values.var(1, ddof=1).mean()
    ratio = between / within
    freedom = groups - 1, groups * (times - 1)
    bounds = ratio / fisher.ppf(0.975, *freedom), ratio / fisher.ppf(0.025, *freedom)
    share, low, high = (max(0.0, float((value - 1) / (value + times - 1))) for value in (ratio, *bounds))
    return share, low, high


def draw(table: 'Table', finding: Finding, task: str, panel: Any) -> None:
    """Plot all members, best first, and the other rows as horizontal lines."""
    every = members(table, finding, table.tasks_of(finding))
    every.sort(key=lambda condition: -fmean(seed_means(table, condition, task)))
    for place, condition in enumerate(every):
        means = seed_means(table, condition, task)
        panel.plot([place] * len(means), means, '.', color='tab:blue', markersize=5)
    for number, row in enumerate(finding.rows):
        if values := table.top1[row.condition][task].values():
            panel.axhline(fmean(values), color=f'C{number + 1}', ls='--', label=table.row(row))
    panel.set_xlabel(finding.axis)
    panel.set_xticks([])

"""Figures of the experiment on certificates; need matplotlib (extra `plot`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from iblm_jax.data.sources import topics
from iblm_jax.reports import experiment_figures, figures

# Families of methods, and what the base is called among them.
FAMILIES = {
    'd': 'd:1024',
    'width': 'width:64',
    'm': 'm:1000000',
    'kind': 'kind:subspace',
    'shuffle': 'shuffle:0',
}
# Bounds from all units.
KINDS = {
    'log_wealth': 'log-wealth',
    'freedman': 'Freedman',
    'kl': 'kl, Catoni',
    'hoeffding': 'Hoeffding',
    'azuma_tokens': 'Azuma, tokens',
}
_AXES = {
    'd': 'coded numbers d',
    'width': 'width of the model',
    'm': 'documents m',
    'shuffle': 'characters permuted within windows of',
}
_LINES = {
    'bound/hoeffding': 'Hoeffding bound',
    'bound/log_wealth': 'log-wealth bound',
    'heldout': 'held-out loss of the same model',
    'heldout/unsmoothed': 'held-out loss before coding',
}
_LABELS = {
    **_LINES,
    **{f'all/{kind}': f'{label}, all units' for kind, label in KINDS.items()},
    'bound/hoeffding': 'Hoeffding, sample',
    'bound/reference': 'reference, sample',
    'bound/log_wealth': 'log-wealth, sample',
    'code_bits': 'bits of code',
}


def make(tree: Mapping[str, Any]) -> dict[str, Any]:
  """All figures that the methods of a tree of results.json allow, by name."""
  methods = list(tree['summary'])
  families = {
      family: ordered([m for m in methods if m.startswith(f'{family}:')])
      for family in FAMILIES
  }
  there = {family for family, names in families.items() if len(names) > 1}
  found = {}
  lines = [family for family in ('d', 'width', 'm') if family in there]
  if lines:
    found['bounds'] = _lines_figure(tree, lines, families)
  if 'shuffle' in there:
    found['controls'] = _lines_figure(tree, ['shuffle'], families)
  if 'kind' in there:
    found['kinds'] = experiment_figures.interval_figure(
        tree,
        ['bound/log_wealth', 'bound/hoeffding', 'heldout/unsmoothed'],
        families['kind'],
        _LABELS | {'base': FAMILIES['kind']},
    )
  scored = [
      name for name in methods if 'all/log_wealth' in tree['summary'][name]
  ]
  if scored:
    found['side_by_side'] = _side_by_side_figure(tree, scored[-1])
  return found


def ordered(members: Sequence[str]) -> list[str]:
  """Methods of one family and the base, by their numbers where they have one.

  >>> ordered(['d:4096', 'd:64'])
  ['d:64', 'base', 'd:4096']
  >>> ordered(['kind:full', 'kind:lora'])
  ['base', 'kind:full', 'kind:lora']
  """
  family = members[0].split(':')[0] if members else ''
  names = ['base', *members]
  if family in _AXES:
    return sorted(names, key=lambda name: _value(name, family))
  return names


def _value(name: str, family: str) -> float:
  """Number in a method's name; what has none comes last."""
  named = FAMILIES[family] if name == 'base' else name
  _, colon, number = named.partition(':')
  return float(number) if colon else math.inf


@figures.styled
def _lines_figure(tree, families, members) -> Any:
  """Bounds and losses against the number in the methods' names."""
  figure, axes = figures.subplots(
      1, len(families), figsize=(1.6 + 3.8 * len(families), 4.0), sharey=True
  )
  for family, axis in zip(families, axes[0], strict=True):
    names = members[family]
    for (metric, label), colour in zip(
        _LINES.items(), figures.COLOURS, strict=False
    ):
      entries = [tree['summary'][name][metric] for name in names]
      means = [entry['mean'] for entry in entries]
      xs = [_value(name, family) for name in names]
      axis.plot(xs, means, 'o-', color=colour, markersize=4, label=label)
      low, high = zip(*(entry['ci95'] for entry in entries), strict=True)
      if None not in low:
        axis.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.axhline(
        math.log2(topics.VOCAB_SIZE), color='black', linestyle='--',
        linewidth=1, label='guessing',
    )
    axis.axhline(
        tree['summary']['base']['unigram']['mean'], color='grey',
        linestyle=':', linewidth=1.2, label='best without context',
    )
    if family == 'shuffle':
      axis.set_xscale('symlog', base=2, linthresh=2)
    else:
      axis.set_xscale('log')
    xs = [_value(name, family) for name in names]
    axis.set_xticks(xs, [f'{x:,.0f}' for x in xs])
    axis.minorticks_off()
    axis.set(xlabel=_AXES[family])
  axes[0, 0].set(ylabel='bits per character')
  axes[0, -1].legend(loc='center left', bbox_to_anchor=(1.0, 0.5))
  return figure


@figures.styled
def _side_by_side_figure(tree, method) -> Any:
  """All bounds on the models of one method."""
  summary = tree['summary'][method]
  names = [
      name
      for name in (
          'heldout',
          *(f'all/{kind}' for kind in KINDS),
          'bound/log_wealth', 'bound/hoeffding', 'bound/reference',
      )
      if name in summary
  ]
  figure, axes = figures.subplots(1, 1, figsize=(7.5, 0.9 + 0.36 * len(names)))
  axis = axes[0, 0]
  for place, name in enumerate(names):
    entry = summary[name]
    colour = figures.COLOURS[
        2 if name == 'heldout' else 0 if name.startswith('all/') else 1
    ]
    low, high = entry['ci95']
    error = None if low is None else [[entry['mean'] - low],
                                      [high - entry['mean']]]
    axis.errorbar(
        entry['mean'], place, xerr=error, fmt='o', color=colour, capsize=3
    )
  axis.axvline(
      math.log2(topics.VOCAB_SIZE), color='black', linestyle='--', linewidth=1
  )
  axis.set_yticks(range(len(names)), [_LABELS[name] for name in names])
  axis.set_ylim(len(names) - 0.5, -0.5)
  axis.grid(False, axis='y')
  axis.set(
      xlabel='bits per character (dashed: guessing)',
      title=f'Models of {method}',
  )
  return figure

"""Rows of the experiment on memory beside each other, and as tables."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from iblm_jax.experiments._harness import results
from iblm_jax.experiments.memory import language, methods

_BASELINE = 'memory:causal'


class Beside(NamedTuple):
  """What a row says beside another one of its seed.

  Attributes:
    how: From the two numbers to what is said.
    others: By method: beside which one.
  """

  metric: str
  how: Callable[[float, float], float]
  others: Mapping[str, str]


def _percent(here: float, there: float) -> float:
  return 100 * (here / there - 1)


def _all_beside(other: str, *families: str) -> dict[str, str]:
  members = [n for f in families for n in methods.FAMILIES[f]]
  return {name: other for name in members if name != other}


_AUTOENCODERS = ('ae', 'ae:attention')
_COMPRESSED = {
    name: 'combined:1' for name in methods.FAMILIES['compressed']
}
_STAGED = {n: f'frozen_ae:staged:{n}' for n in methods.BUDGETS}
# Methods whose best loss is that of no Markov chain.
_OTHER_LANGUAGES = {
    *methods.FAMILIES['bytes'], *methods.FAMILIES['needle']
}
_BESIDE = {
    'times_causal': Beside('probe/recovered_bits', operator.truediv, {
        **dict.fromkeys(_AUTOENCODERS, 'causal:4x'), 'bytes:ae': 'bytes:causal'
    }),
    # Of the same network, with another training or none.
    'times_alike': Beside('probe/recovered_bits', operator.truediv, {
        'ae': 'causal:mixer', 'ae:attention': 'causal:4x'
    }),
    'times_untrained': Beside('probe/recovered_bits', operator.truediv, {
        'ae': 'untrained:mixer', 'ae:attention': 'untrained'
    }),
    'causal_change': Beside(
        'causal/cross_entropy', _percent,
        _all_beside(_BASELINE, 'memory', 'compressed')
        | {'frozen_ae:combined': _BASELINE}
        | _all_beside('bytes:memory', 'bytes'),
    ),
    'causal_change_2x': Beside(
        'causal/cross_entropy', _percent,
        _all_beside('memory:causal_2x', 'memory', 'compressed'),
    ),
    'causal_change_ae': Beside(
        'causal/cross_entropy', _percent,
        _all_beside('memory:causal_ae', 'memory'),
    ),
    'over_direct': Beside('copy/accuracy', operator.sub, {
        staged: f'frozen_ae:direct:{n}' for n, staged in _STAGED.items()
    }),
    'over_twice': Beside('copy/accuracy', operator.sub, {
        staged: f'frozen_ae:twice:{n}' for n, staged in _STAGED.items()
    }),
    'bits_change': Beside('probe/recovered_bits', operator.sub, _COMPRESSED),
    'mbe_change': Beside('probe/mbe', operator.sub, _COMPRESSED),
    'blank_change': Beside('blank_copy/accuracy', operator.sub, _COMPRESSED),
    'over_causal': Beside('chunk_0/accuracy', operator.sub, _all_beside(
        'needle:causal', 'needle'
    )),
}
_PROBED = [
    ['probe/recovered_bits', 'bits, position by position', 1],
    ['probe/sure_bits', 'of the text, at least', 1],
    ['probe/accuracy', 'tokens recovered', 3],
    ['probe/constant/accuracy', 'without the embedding', 3],
    ['probe/information_fraction', '1 - CE / ln V', 3],
    ['probe/mbe', 'entropy of embeddings', 2],
]
_COPIED = [
    ['causal/cross_entropy', 'causal loss', 3],
    ['excess', 'above the best possible', 3],
    ['copy/accuracy', 'copy accuracy', 3],
    ['blank_copy/accuracy', 'blank copy accuracy', 3],
]
_HELD = [*_PROBED[:2], ['probe/mbe', 'entropy of memories', 2]]
# Tables of the page: methods of which family, and columns. What no row of a
# table has is left out of it.
_TABLES: dict[str, tuple[str, list[list[Any]]]] = {
    'causal': ('causal', [*_PROBED, ['cross_entropy', 'own loss', 3]]),
    'autoencoder': ('autoencoder', [
        ['accuracy', 'tokens recovered', 3],
        ['cross_entropy', 'own loss', 3],
        ['probe/accuracy', 'by the common probe', 3],
        *_PROBED[:2],
        ['times_causal', 'times those of causal:4x', 1],
        ['times_alike', 'of a causal model of the same blocks', 1],
        ['times_untrained', 'of random blocks', 1],
        _PROBED[-1],
    ]),
    'memory': ('memory', [*_COPIED, *_HELD]),
    'causal_loss': ('memory', [
        ['causal_change', 'against memory:causal, %', 1],
        ['causal_change_2x', 'against memory:causal_2x, %', 1],
        ['causal_change_ae', 'against memory:causal_ae, %', 1],
    ]),
    'curriculum': ('curriculum', [*_COPIED[2:], _COPIED[0]]),
    'stages': ('curriculum', [
        ['over_direct', 'copy accuracy over direct', 3],
        ['over_twice', 'over direct in two stages', 3],
    ]),
    'compressed': ('compressed', [*_COPIED, *_HELD]),
    'compression': ('compressed', [
        ['phases/share_compression', 'share of updates that compress', 2],
        ['mbe_change', 'entropy of memories over combined:1', 2],
        ['bits_change', 'bits', 1],
        ['blank_change', 'blank copy accuracy', 3],
    ]),
    'needle': ('needle', [
        ['chunk_0/accuracy', 'values of chunk 0', 3],
        ['chunk_1/accuracy', 'of chunk 1', 3],
        ['chunk_2/accuracy', 'of chunk 2', 3],
        ['over_causal', 'chunk 0 over needle:causal', 3],
        ['blank_copy/accuracy', 'blank copy accuracy', 3],
    ]),
    'bytes': ('bytes', [
        ['cross_entropy', 'own loss', 3],
        ['accuracy', 'own accuracy', 3],
        ['causal_change', 'causal loss over bytes:memory, %', 1],
        ['blank_copy/accuracy', 'blank copy accuracy', 3],
        _PROBED[0],
        ['times_causal', 'times those of bytes:causal', 1],
        *_PROBED[2:4],
        _PROBED[-1],
    ]),
}


def compare(rows: list[dict[str, Any]]) -> None:
  """Adds to rows what they say beside others of their seed.

  These are `_BESIDE`, and 'excess', of the causal loss over that of the best
  prediction there is.
  """
  best = functools.cache(language.best_loss)
  by_name = {(row['method'], row['seed']): row for row in rows}
  for row in rows:
    method, seed = row['method'], row['seed']
    if 'causal/cross_entropy' in row and method not in _OTHER_LANGUAGES:
      row['excess'] = row['causal/cross_entropy'] - best(seed)
    for name, (metric, how, others) in _BESIDE.items():
      other = by_name.get((others.get(method), seed), {})
      if metric in row and metric in other:
        row[name] = how(row[metric], other[metric])


def make_tables(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """The tables of `_TABLES`, of the rows and columns that have something."""
  tables = {}
  for name, (family, columns) in _TABLES.items():
    members = methods.FAMILIES[family]
    shown = [row for row in rows if row['method'] in members]
    kept = [c for c in columns if any(c[0] in row for row in shown)]
    named = dict.fromkeys(
        row['method'] for row in shown if any(c[0] in row for c in kept)
    )
    if kept:
      tables[name] = results.table(list(named), kept)
  return tables

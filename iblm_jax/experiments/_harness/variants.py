"""Runs as small changes of one base config."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from iblm_jax.training import config

Overrides = Mapping[str, Any]


def make_config(
    base: Mapping[str, Any], overrides: Overrides, *, seed: int
) -> config.RunConfig:
  """The options of one run.

  Args:
    base: nested mapping, see `config.from_dict`.
    overrides: by dotted path, as flags name them: {'objective.weight': 0.3}.
    seed: of the initial parameters and of the data.

  Returns:
    The options.

  Raises:
    ValueError: for a bad field, with its path.

  >>> cfg = make_config({'model': {'vocab_size': 15}, 'data': {},
  ...     'optimizer': {'schedule': {'peak': 1e-3}}},
  ...     {'objective.weight': 0.3}, seed=7)
  >>> cfg.objective.weight, cfg.train.seed, cfg.data.seed
  (0.3, 7, 7)
  """
  seeds = {'train.seed': seed, 'data.seed': seed}
  return config.from_dict(change(base, {**overrides, **seeds}))


def change(base: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
  """A copy of a nested mapping with other values at dotted paths.

  >>> change({'a': {'b': 1, 'c': 2}}, {'a.b': 3, 'd.e': 4})
  {'a': {'b': 3, 'c': 2}, 'd': {'e': 4}}
  """
  tree = copy.deepcopy(dict(base))
  for path, value in overrides.items():
    *groups, name = path.split('.')
    node = tree
    for group in groups:
      node = node.setdefault(group, {})
    node[name] = copy.deepcopy(value)  # later paths may lead into it
  return tree


def make_runs(
    base: Mapping[str, Any],
    methods: Mapping[str, Overrides],
    seeds: Sequence[int],
) -> dict[str, config.RunConfig]:
  """Runs of every method on every seed, by the name of their folder.

  Seeds come first in the order of training, so that an experiment that is
  stopped early has all methods on some seeds.
  """
  return {
      run_name(method, seed): make_config(base, overrides, seed=seed)
      for seed in seeds
      for method, overrides in methods.items()
  }


def run_name(method: str, seed: int) -> str:
  """Name of the folder of a run."""
  return f'{method}_seed_{seed}'

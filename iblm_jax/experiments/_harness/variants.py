"""Runs as small changes of one base config."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from iblm_jax import config_files
from iblm_jax.training import config, options

Overrides = Mapping[str, Any]


def base(name: str, variant: str, overrides: Overrides) -> dict[str, Any]:
  """A config that comes with the package, with other values.

  >>> base('multiplication', 'ce', {'model.width': 64})['model']['width']
  64
  """
  return change(config_files.load(name, variant).to_dict(), overrides)


def make_config(
    base: Mapping[str, Any], overrides: Overrides, *, seed: int
) -> options.RunConfig:
  """The options of one run; the seed is of its parameters and of its data.

  Overrides are by dotted path, as flags name them. Raises ValueError for a bad
  field, with its path.

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
) -> dict[str, options.RunConfig]:
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

"""What the experiment chooses, from rows that were written by hand."""

import pytest

from iblm_jax.experiments import multiplication
from iblm_jax.experiments._harness import program, results

SCORE = 'stopped/in_distribution/cross_entropy'
# Nats; tuned on seeds 100 and 101, so that 0.3 is best in the mean and neither
# the first, the last nor the best on one seed.
DECAYS = {'0': (2.0, 2.0), '0.1': (0.5, 1.9), '0.3': (1.1, 1.1), '1': (1, 1.3)}
BEST = 'gate_patch:4'


@pytest.fixture
def asked(monkeypatch, tmp_path):
  """Calls for training; the program reads rows that follow from the names."""
  calls = []

  def value(method, seed, metric):
    if metric != SCORE:
      # Every column of every table, by the place of its name.
      return sum(map(ord, f'{method}{metric}')) % 97 + seed / 1000
    if method.startswith('decay_'):
      return DECAYS.get(method.removeprefix('decay_'), (3.0, 3.0))[seed - 100]
    return {BEST: 0.25, 'ce:0': 0.125}.get(method, 0.5)

  columns = [
      name
      for table in multiplication._tables(['ce_tuned', 'gapt']).values()
      for name, _, _ in table['columns']
  ]
  layers = [
      f'{prefix}/layer_{n:02d}'
      for prefix in multiplication.COMPRESSION_LABELS
      for n in range(4)
  ]

  def train_methods(options, base, methods, seeds, folder, *, select):
    calls.append((dict(methods), list(seeds), folder, select))
    return [
        {'method': method, 'seed': seed}
        | {
            name: float(value(method, seed, name))
            for name in (*columns, *layers, SCORE)
        }
        for seed in seeds
        for method in methods
    ]

  monkeypatch.setattr(program, 'train_methods', train_methods)

  def start(**flags):
    calls.clear()
    program.conduct(
        multiplication.EXPERIMENT, tmp_path, smoke=False, seeds=3, **flags
    )
    return calls

  return start


def test_the_baseline_is_tuned_on_seeds_of_its_own(asked, tmp_path):
  tuning, compared = asked(sweep=False)
  assert tuning[1:] == ([100, 101], 'tuning', 'in_distribution')
  assert {m['optimizer.weight_decay'] for m in tuning[0].values()} >= {
      0.0, 0.1, 0.3, 1.0
  }
  assert compared[1:] == ([0, 1, 2], 'runs', 'in_distribution')
  tree = results.read(tmp_path / 'results.json')
  assert tree['settings']['tuning']['weight_decay'] == 0.3
  assert tree['settings']['tuning']['scores']['decay_0.1'] == pytest.approx(1.2)
  decays = {
      name: method.get('optimizer.weight_decay')
      for name, method in compared[0].items()
  }
  assert decays['ce_tuned'] == decays['gapt_tuned'] == 0.3
  assert decays['ce'] is None and decays['gapt'] is None
  assert tree['paired']['baseline'] == 'ce_tuned'


def test_the_best_of_the_sweep_is_tried_on_fresh_seeds(asked, tmp_path):
  _, swept, fresh, more = asked(sweep=True)
  assert swept[1:3] == ([100, 101], 'sweep') and BEST in swept[0]
  assert fresh[1] == [200, 201, 202, 203, 204]
  # Cross-entropy alone is the baseline and no candidate.
  assert fresh[0] == {'ce_tuned': swept[0]['ce:0'], 'best': swept[0][BEST]}
  assert more[1] == [102, 103, 104]
  assert {name.split(':')[0] for name in more[0]} == {
      'ce', 'constant', 'dual', 'gate'
  }
  tree = results.read(tmp_path / 'fresh.json')
  assert tree['settings']['best'] == BEST
  assert {row['seed'] for row in tree['rows']} == set(fresh[1])
  # Targets are multiples of what the tuned baseline reaches.
  reached = tree['settings']['tuning']['train_cross_entropy']
  assert swept[0]['dual:1.25']['dual.target'] == pytest.approx(1.25 * reached)

"""The experiment on certificates: its runs, rows and program; the budget."""

import copy
import json
import math

import numpy as np
import observations
import programs
import pytest

from iblm_jax import config
from iblm_jax.bounds import options
from iblm_jax.certification import document_losses
from iblm_jax.experiments import budget
from iblm_jax.experiments._harness import results
from iblm_jax.experiments.certificates import figures as certificates_figures
from iblm_jax.experiments.certificates import program as certificates
from iblm_jax.experiments.certificates import rows as certificates_run


def make_runs(seeds=range(2)):
  return certificates.make_runs(
      certificates.BASE,
      certificates.METHODS,
      certificates._CERTIFICATE,
      seeds,
  )


def test_methods_change_the_base_in_one_respect():
  runs = {run.method: run.cfg.run for run in make_runs(range(1))}
  trees = {name: config.to_dict(cfg) for name, cfg in runs.items()}
  groups = {
      'd': {'config.parameterisation.dims'},
      'width': {'config.model.width'},
      'm': {'config.data.topics.num_train'},
      'shuffle': {'config.data.topics.shuffle_window'},
      'random': {'config.data.topics.kind'},
  }
  for name, tree in trees.items():
    changed = {path for path, _, _ in config.differences(trees['base'], tree)}
    family, _, value = name.partition(':')
    if family == 'kind':
      assert runs[name].parameterisation.kind == value
      assert {path.split('.')[1] for path in changed} <= {
          'parameterisation', 'optimizer'
      }
    elif name != 'base':
      assert changed == groups[family], name
    if family == 'd':
      assert math.prod(runs[name].parameterisation.dims) == int(value)
    if family == 'width':
      assert runs[name].model.width == int(value)
    if family == 'm':
      assert runs[name].data.topics.num_train == int(value)
    if family == 'shuffle':
      assert runs[name].data.topics.shuffle_window == int(value)
  base = runs['base']
  for family, label in certificates_figures.FAMILIES.items():
    value = label.partition(':')[2]
    found = {
        'd': math.prod(base.parameterisation.dims),
        'width': base.model.width,
        'm': base.data.topics.num_train,
        'kind': base.parameterisation.kind,
        'shuffle': base.data.topics.shuffle_window,
    }[family]
    assert str(found) == value


def test_a_seed_decides_documents_parameters_and_order():
  runs = make_runs()
  count = len(certificates.METHODS)
  assert [run.seed for run in runs] == [0] * count + [1] * count
  for run in runs:
    cfg = run.cfg.run
    assert (
        cfg.train.seed == cfg.data.seed == cfg.data.topics.seed == run.seed
    )
    assert run.score_all == (run.method in ('m:10000', 'm:100000'))
  # Whoever picks the best of all methods has paid for it.
  assert 2 ** runs[0].cfg.certificate.search_bits >= count


def test_methods_are_left_as_they_are():
  before = copy.deepcopy(certificates.METHODS)
  make_runs(range(1))
  assert certificates.METHODS == before  # settings.json is written later


def test_all_bounds_follow_their_formulas():
  rng = np.random.default_rng(0)
  m, length, vocab, bits = 4000, 16, 27, 500.0
  cfg = options.CertificateConfig(sample=None, alphas=(0.1, 0.5), top_k=(1,))
  ranges = [
      (-math.log2(1 - a + a / vocab), math.log2(vocab / a)) for a in cfg.alphas
  ]
  losses = np.stack([rng.uniform(2.0, 3.0, m), rng.uniform(3.0, 4.0, m)])
  found = certificates_run.all_bounds(
      document_losses.DocumentLosses(
          losses, np.full((1, m), 0.5), m * length, losses.mean(axis=1)
      ),
      vocab_size=vocab,
      total_bits=bits,
      options=cfg,
  )
  nats = bits * math.log(2) + math.log(2 / 0.05)  # two alphas are looked at
  means = losses.mean(axis=1)
  hoeffding, azuma = (
      min(
          mean + (high - low) * math.sqrt(nats / (2 * count))
          for mean, (low, high) in zip(means, ranges, strict=True)
      )
      for count in (m, m * length)
  )
  assert found['all/hoeffding'] == pytest.approx(hoeffding, rel=1e-12)
  assert found['all/azuma_tokens'] == pytest.approx(azuma, rel=1e-12)
  # The kl-inverse, by going up in small steps from the mean.
  kl = math.inf
  for mean, (low, high) in zip(means, ranges, strict=True):
    q = (mean - low) / (high - low)
    p = np.linspace(q, 1 - 1e-9, 200_001)
    divergence = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    kl = min(kl, low + (high - low) * p[np.sum(divergence <= nats / m)])
  assert found['all/kl'] == pytest.approx(kl, abs=1e-4)
  assert found['all/log_wealth'] < found['all/kl'] < found['all/hoeffding']
  assert found['all/log_wealth'] < found['all/freedman']


def test_families_are_in_the_order_of_their_numbers():
  ordered = certificates_figures.ordered
  assert ordered(['m:100000', 'm:10000']) == ['m:10000', 'm:100000', 'base']
  assert ordered(['shuffle:16', 'random', 'shuffle:4']) == [
      'base', 'shuffle:4', 'shuffle:16', 'random'
  ]


def test_every_number_of_a_row_is_of_its_claim():
  claim = lambda loss, kind, value, **more: {
      'loss': loss, 'kind': kind, 'value': value, 'empirical': value - 0.5,
      'alpha': 0.1, **more,
  }
  row = certificates_run.make_row({
      'claims': [
          claim('bits per token', 'hoeffding', 4.0, alpha=0.5, unseen=4.5),
          claim('bits per token', 'log_wealth', 3.0, unseen=3.25),
          claim('top-1 error', 'log_wealth', 0.75),
      ],
      'terms': {
          'bits per token, hoeffding': {'sum': {'empirical': 9.0}},
          'bits per token, log_wealth': {
              'sum': {'empirical': 2.5, 'code': 0.5}
          },
      },
      'heldout': {
          'bits per token, hoeffding': 2.125,
          'bits per token, log_wealth': 2.25,
          'top-1 error': 0.375,
      },
      'made': {'heldout_before_quantisation': 2.0, 'seconds': 7.0},
      'code': {'total': 150.0, 'bits_per_number': 1.25, 'numbers': 12},
      'model': {'parameters': 99},
      'population': {'m': 60, 'unigram': 4.25},
  })
  assert row == {
      'bound/hoeffding': 4.0, 'unseen/hoeffding': 4.5,
      'bound/log_wealth': 3.0, 'unseen/log_wealth': 3.25,
      'empirical': 2.5, 'heldout': 2.25, 'heldout/unsmoothed': 2.0,
      'margin': 0.75, 'term/empirical': 2.5, 'term/code': 0.5,
      'top_1/bound': 0.75, 'top_1/heldout': 0.375,
      'code_bits': 150.0, 'bits_per_number': 1.25, 'numbers': 12,
      'parameters': 99, 'units': 60, 'alpha': 0.1, 'unigram': 4.25,
      'seconds': 7.0,
  }


def test_program_makes_certificates_once(tmp_path):
  first = programs.run(
      'experiments.certificates', f'--workdir={tmp_path}', '--smoke'
  )
  assert '2/2 certificates' in first.stdout
  assert 'bound in 2 of 2 certificates' in first.stdout
  tree = results.read(tmp_path / 'results.json')
  base, small = tree['rows']
  observations.check_results('certificates', tree)
  assert (base['method'], small['method']) == ('base', 'm:1000')
  assert (base['units'], small['units']) == (2000, 1000)
  for row, name in ((base, 'base'), (small, 'm:1000')):
    folder = tmp_path / 'runs' / f'{name}_seed_0' / 'certificate'
    certificate = json.loads((folder / 'certificate.json').read_text())
    (claim,) = [
        claim
        for claim in certificate['claims']
        if (claim['loss'], claim['kind']) == ('bits per token', 'log_wealth')
    ]
    assert row['bound/log_wealth'] == pytest.approx(claim['value'], rel=1e-5)
    terms = [value for key, value in row.items() if key.startswith('term/')]
    assert sum(terms) == pytest.approx(claim['value'], rel=1e-4)
    # One number a symbol and what it says about the code's length.
    payload = 8 * (folder / 'code.bin').stat().st_size
    assert payload < row['code_bits'] < payload + 40
    assert row['margin'] == pytest.approx(
        row['bound/log_wealth'] - row['heldout'], abs=1e-4
    )
  # Scoring all units pays for no second draw.
  assert small['all/log_wealth'] < small['bound/log_wealth']
  assert small['seconds/all'] > 0
  for name in ('bounds', 'side_by_side'):
    assert (tmp_path / f'{name}.png').stat().st_size > 10_000
  again = programs.run(
      'experiments.certificates', f'--workdir={tmp_path}', '--smoke'
  )
  assert 'certificates |' not in again.stdout
  assert results.read(tmp_path / 'results.json')['rows'] == tree['rows']
  refused = programs.run(
      'experiments.certificates', f'--workdir={tmp_path}', status=2
  )
  assert 'other settings' in refused.stderr


def test_budget_is_that_of_the_published_setting():
  parts = budget.code_bits(50_000, 11, 3.0)
  assert parts['numbers'] == 150_000
  rows = budget.addends(
      bits=150_000, units=8_009_762, scored=10_000, vocab_size=50_257,
      risk=10.0, delta=0.05, alphas=(0.1,),
  )
  (row,) = rows
  # One α and all of δ for each draw differ little from the public formula,
  # whose value in the notes on the paper is 11.7436.
  assert row['reference'] == pytest.approx(11.7435740677, abs=1e-9)
  assert row['bound'] == pytest.approx(row['reference'], abs=0.03)
  assert row['complexity'] == pytest.approx(18.786965 * 0.0805668, abs=1e-3)
  with pytest.raises(ValueError, match='levels must be >= 2, got 1'):
    budget.code_bits(10, 1, None)

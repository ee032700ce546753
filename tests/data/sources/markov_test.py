"""Documents follow the tables, and the exact answers are exact."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from iblm_jax.data.sources import markov

CONFIG = markov.MarkovConfig()
SMALL = markov.MarkovConfig(
    vocab_size=4, num_topics=3, successors=(1, 4), length=7, seed=2
)


def make(split='train', batch_size=512, seed=0, **options):
  config = dataclasses.replace(CONFIG, **options)
  return markov.MarkovSource(config, split, batch_size, seed)


def sample(n, split='train', seed=0, **options):
  """Documents with the token after them, [n, L + 1]."""
  batch = make(split, n, seed, **options).batch(0)
  return np.concatenate([batch['tokens'], batch['targets'][:, -1:]], axis=1)


def topic_losses(config, documents):
  """-log p of each document in each topic, [n, Z]; inf where it has none."""
  table = markov.transitions(config)
  step = table[:, documents[:, :-1], documents[:, 1:]]
  with np.errstate(divide='ignore'):
    return -np.log(step).sum(axis=-1).T


def test_rows_hold_documents():
  source = make(batch_size=4)
  batch = source.batch(3, rows=range(1, 3))
  assert {key: (x.shape, x.dtype.name) for key, x in batch.items()} == {
      'tokens': ((2, 64), 'int32'),
      'targets': ((2, 64), 'int32'),
      'loss_mask': ((2, 64), 'bool'),
      'mask': ((2, 64), 'bool'),
      'segment_ids': ((2, 64), 'int32'),
      'positions': ((2, 64), 'int32'),
  }
  np.testing.assert_array_equal(
      batch['tokens'][:, 1:], batch['targets'][:, :-1]
  )
  assert batch['mask'].all() and batch['loss_mask'].all()
  assert (batch['segment_ids'] == 1).all()
  assert (batch['positions'] == np.arange(64)).all()
  assert (source.vocab_size, source.length) == (64, 64)
  assert source.num_eval_batches is None


@pytest.mark.parametrize('successors', [(4, 8), (1, 1), (32, 32)])
def test_tables_are_as_the_options_say(successors):
  table = markov.transitions(
      dataclasses.replace(CONFIG, successors=successors, seed=3)
  )
  assert table.shape == (8, 64, 64) and table.dtype == np.float64
  assert (table.sum(axis=-1) == 1).all()
  np.testing.assert_array_equal(table * 256, np.rint(table * 256))
  # Each count between the bounds occurs, as often as any other.
  number = (table > 0).sum(axis=-1).ravel()
  counts = np.bincount(number, minlength=successors[1] + 1)
  assert not counts[: successors[0]].any() and counts[successors[0] :].all()
  assert counts.size == successors[1] + 1
  if successors[0] < successors[1]:
    assert stats.chisquare(counts[successors[0] :]).pvalue > 1e-3
  # Every token is as good a successor as any other.
  assert stats.chisquare((table > 0).sum(axis=(0, 1))).pvalue > 1e-3
  # Topics differ, and so do probabilities.
  assert len({row.tobytes() for row in table.reshape(512, 64)}) > 60
  assert (successors == (1, 1)) == (np.unique(table).size == 2)


def test_tables_depend_on_their_seed_alone():
  table = markov.transitions(CONFIG)
  for options in ({'length': 9}, {'num_heldout': 5}):
    same = markov.transitions(dataclasses.replace(CONFIG, **options))
    np.testing.assert_array_equal(same, table)
  # More topics leave those that are there as they are.
  more = markov.transitions(dataclasses.replace(CONFIG, num_topics=12))
  np.testing.assert_array_equal(more[:8], table)
  other = markov.transitions(dataclasses.replace(CONFIG, seed=1))
  assert ((other > 0) == (table > 0)).mean() < 0.9


@pytest.mark.parametrize('split, seed', [('train', 5), ('heldout', 0)])
def test_documents_follow_one_table_each(split, seed):
  documents = sample(20_000, split, seed, num_heldout=20_000)
  losses = topic_losses(CONFIG, documents)
  # 64 steps leave no doubt about the topic.
  assert (np.isfinite(losses).sum(axis=1) == 1).all()
  topic = losses.argmin(axis=1)
  assert stats.chisquare(np.bincount(topic, minlength=8)).pvalue > 1e-3
  assert stats.chisquare(
      np.bincount(documents[:, 0], minlength=64)
  ).pvalue > 1e-3
  first = np.zeros((8, 64))
  np.add.at(first, (topic, documents[:, 0]), 1)
  assert stats.chi2_contingency(first).pvalue > 1e-3
  table = markov.transitions(CONFIG)
  counts = np.zeros(table.shape)
  np.add.at(
      counts, (topic[:, None], documents[:, :-1], documents[:, 1:]), 1
  )
  wanted = counts.sum(axis=-1, keepdims=True) * table
  # Rows that were seen often enough for the distribution of the statistic.
  often = np.where(table > 0, wanted, np.inf).min(axis=-1) > 5
  assert often.sum() > 400
  counts, wanted = counts[often], wanted[often]
  there = wanted > 0
  statistic = ((counts - wanted)[there] ** 2 / wanted[there]).sum()
  freedom = there.sum() - often.sum()
  assert stats.chi2.sf(statistic, freedom) > 1e-3
  assert stats.chi2.cdf(statistic, freedom) > 1e-3


@pytest.mark.parametrize('distance', [1, 7, 8])
def test_steps_are_independent(distance):
  """With equal rows, tokens are independent: also of those 8 words later."""
  config = markov.MarkovConfig(
      vocab_size=4, num_topics=1, successors=(4, 4), length=40
  )
  documents = markov.MarkovSource(config, batch_size=20_000).batch(0)['tokens']
  table = markov.transitions(config)[0]
  # Of the steps from token 0 and, later, again from token 0.
  early, late = 3, 3 + distance
  both = (documents[:, early] == 0) & (documents[:, late] == 0)
  pair = documents[both][:, [early + 1, late + 1]]
  counts = np.zeros((4, 4))
  np.add.at(counts, tuple(pair.T), 1)
  if distance == 1:  # The first step ends where the second one begins.
    assert not counts[1:].any()
    assert stats.chisquare(counts[0], counts[0].sum() * table[0]).pvalue > 1e-3
  else:
    assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_a_document_is_a_function_of_seed_and_number():
  source = make(batch_size=100, seed=3)
  whole = source.batch(5)
  rows = [99, 5, 5, 70]
  few = make(batch_size=100, seed=3).batch(5, rows)
  for key, values in whole.items():
    np.testing.assert_array_equal(values[rows], few[key])
  for key, values in make(batch_size=8).batch(5).items():
    halves = [make(batch_size=4).batch(k)[key] for k in (10, 11)]
    np.testing.assert_array_equal(values, np.concatenate(halves))
  # More of a document does not change its beginning.
  longer = make(batch_size=100, seed=3, length=100).batch(5)
  np.testing.assert_array_equal(longer['tokens'][:, :64], whole['tokens'])
  for other in (source.batch(6), make(batch_size=100, seed=4).batch(5)):
    assert (other['tokens'] != whole['tokens']).mean() > 0.8
  held_out = make('heldout', batch_size=100, seed=3).batch(5)
  assert (held_out['tokens'] != whole['tokens']).mean() > 0.8


def test_other_tables_mean_other_documents():
  """The seed of the config changes the first tokens as well."""
  for split in markov.SPLITS:
    made = [
        markov.MarkovSource(markov.MarkovConfig(seed=seed), split).batch(0)
        for seed in (0, 1)
    ]
    assert (made[0]['tokens'] != made[1]['tokens'])[:, 0].mean() > 0.8


def test_no_document_is_in_both_sets():
  train = sample(20_000, seed=1)
  held_out = sample(1024, 'heldout')
  seen = set(map(bytes, train))
  assert len(seen) == 20_000
  assert not seen & set(map(bytes, held_out))


@pytest.mark.parametrize('uniform', [False, True])
def test_the_evaluation_set_is_fixed_and_complete(uniform):
  wanted = None
  for batch_size, seed in ((100, 0), (64, 7), (1, 0)):
    source = make(
        'heldout', batch_size, seed, num_heldout=150, uniform=uniform
    )
    assert source.num_eval_batches == -(-150 // batch_size)
    rows = [source.batch(k) for k in range(source.num_eval_batches)]
    made = {
        key: np.concatenate([batch[key] for batch in rows]) for key in rows[0]
    }
    assert made['mask'][:150].all() and made['loss_mask'][:150].all()
    for values in made.values():
      assert not values[150:].any()
    wanted = made['tokens'][:150] if wanted is None else wanted
    np.testing.assert_array_equal(made['tokens'][:150], wanted)
  assert len(set(map(bytes, wanted))) == 150


def plain_entropy_rate(config):
  """Power iteration, averaged over a multiple of all periods up to 6."""
  rates = []
  for table in markov.transitions(config).tolist():
    n = len(table)
    share, mean = [1 / n] * n, [0.0] * n
    for step in range(3060):
      if step >= 3000:
        mean = [m + s / 60 for m, s in zip(mean, share, strict=True)]
      share = [sum(share[v] * table[v][w] for v in range(n)) for w in range(n)]
    rates.append(
        -sum(
            mean[v] * p * math.log(p)
            for v in range(n)
            for p in table[v]
            if p > 0
        )
    )
  return sum(rates) / len(rates)


@pytest.mark.parametrize('successors', [(1, 2), (1, 6), (2, 4)])
def test_entropy_rate_by_power_iteration(successors):
  for seed in range(3):
    config = markov.MarkovConfig(
        vocab_size=6, num_topics=3, successors=successors, seed=seed
    )
    np.testing.assert_allclose(
        markov.entropy_rate(config), plain_entropy_rate(config), rtol=1e-10
    )


def test_entropy_rates_in_closed_form():
  uniform = dataclasses.replace(CONFIG, uniform=True)
  np.testing.assert_allclose(markov.entropy_rate(uniform), math.log(64))
  fixed = dataclasses.replace(CONFIG, successors=(1, 1))
  assert markov.entropy_rate(fixed) == 0
  assert 1.2 < markov.entropy_rate(CONFIG) < math.log(8)


def test_predictive_nll_by_enumeration():
  """All documents: the ratio of the probabilities of two beginnings."""
  table = markov.transitions(SMALL).tolist()

  def probability(document):
    """Given its first token; the topic is one of three, equally likely."""
    return sum(
        math.prod(row[v][w] for v, w in itertools.pairwise(document)) / 3
        for row in table
    )

  documents = [
      d for d in itertools.product(range(4), repeat=5) if probability(d) > 0
  ]
  assert 20 < len(documents) < 4**5
  got = markov.predictive_nll(SMALL, documents)
  assert got.shape == (len(documents), 4) and got.dtype == np.float64
  wanted = [
      [
          math.log(probability(d[: t + 1]) / probability(d[: t + 2]))
          for t in range(4)
      ]
      for d in documents
  ]
  np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
  # For each of four first tokens, all that can follow adds up to 1.
  np.testing.assert_allclose(np.exp(-got.sum(axis=1)).sum(), 4)


def test_document_nll_by_enumeration():
  step, length = markov.transitions(SMALL), 4
  num_topics, num_tokens, _ = step.shape
  documents = list(itertools.product(range(num_tokens), repeat=length))
  expected = []
  for document in documents:
    p = 0.0
    for z in range(num_topics):
      here = 1 / num_topics / num_tokens
      for a, b in itertools.pairwise(document):
        here *= step[z, a, b]
      p += here
    expected.append(p)
  expected, documents = np.asarray(expected), np.asarray(documents)
  there = expected > 0
  found = np.exp(-markov.document_nll(SMALL, documents[there]))
  np.testing.assert_allclose(found, expected[there], rtol=1e-12)
  assert found.sum() == pytest.approx(1)
  with pytest.raises(ValueError, match='which no topic has from token'):
    markov.document_nll(SMALL, documents[~there][:1])


def test_predictive_nll_approaches_the_entropy_rate():
  config = dataclasses.replace(CONFIG, length=256)
  documents = sample(4000, length=256)
  nll = markov.predictive_nll(config, documents)
  late = nll[:, 192:].mean(axis=1)
  error = late.std() / math.sqrt(late.size)
  assert error < 0.01
  assert abs(late.mean() - markov.entropy_rate(config)) < 4 * error
  # At first nothing is known of the topic.
  assert nll[:, 0].mean() > late.mean() + 1
  # Not knowing it costs log Z nats of a document in all.
  known = topic_losses(config, documents).min(axis=1)
  np.testing.assert_allclose(nll.sum(axis=1), known + math.log(8))


def test_nothing_predicts_uniform_tokens():
  config = dataclasses.replace(CONFIG, vocab_size=10, uniform=True, length=9)
  documents = sample(30_000, vocab_size=10, uniform=True, length=9)
  for t in range(10):
    assert stats.chisquare(np.bincount(documents[:, t])).pvalue > 1e-3
  for gap in (1, 8):
    counts = np.zeros((10, 10))
    np.add.at(counts, (documents[:, :-gap], documents[:, gap:]), 1)
    assert stats.chi2_contingency(counts).pvalue > 1e-3
  np.testing.assert_allclose(
      markov.predictive_nll(config, documents[:5]), math.log(10)
  )


@pytest.mark.parametrize(
    'options,message',
    [
        ({'vocab_size': 1}, 'vocab_size must be .* 2 and 1024, got 1'),
        ({'num_topics': 0}, 'num_topics must be .* got 0'),
        ({'successors': (0, 4)}, r'successors must be .* got \(0, 4\)'),
        ({'successors': (8, 4)}, r'successors must be .* got \(8, 4\)'),
        ({'successors': (4, 33)}, r'successors must be .* <= 32, got \(4, 33'),
        ({'vocab_size': 6}, r'successors must be .* <= 6, got \(4, 8\)'),
        ({'successors': 4}, 'successors must be a pair .* got 4'),
        ({'length': 0}, 'length must be .* got 0'),
        ({'seed': -1}, 'seed must be .* got -1'),
        ({'num_heldout': 0}, 'num_heldout must be .* got 0'),
        ({'uniform': 1}, 'uniform must be a bool, got 1'),
    ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    markov.MarkovConfig(**options)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match='split must be one of .* got .test.'):
    make('test')
  with pytest.raises(ValueError, match='seed must be .* got -1'):
    make(seed=-1)
  with pytest.raises(ValueError, match='batch_size must be .* got 0'):
    make(batch_size=0)
  with pytest.raises(ValueError, match='k must be an integer between 0 and 1,'):
    make('heldout').batch(2)
  with pytest.raises(ValueError, match='rows must be .* between 0 and 511'):
    make().batch(0, [512])
  for tokens in ([[0, 64]], [[-1, 0]], [[0]], [0, 1], [[0.0, 1.0]]):
    with pytest.raises(ValueError, match='tokens_BxL1 must be integers'):
      markov.predictive_nll(CONFIG, tokens)


def test_a_document_of_no_topic_is_refused():
  documents = sample(3)
  impossible = np.flatnonzero(
      markov.transitions(CONFIG)[:, documents[1, 4]].sum(axis=0) == 0
  )
  documents[1, 5] = impossible[0]
  with pytest.raises(ValueError, match='got row 1, .* from token 5 on'):
    markov.predictive_nll(CONFIG, documents)


def test_lists_of_config_files_become_tuples():
  config = markov.MarkovConfig(successors=[4, 8])
  assert config == CONFIG and hash(config) == hash(CONFIG)

"""A kind of data in one file, and data of one's own that no config makes."""

import contextlib
import importlib.util
import json
import textwrap

import grain
import jax
import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax import data, training
from iblm_jax.data import batches, kinds, sources
from iblm_jax.training import loop

_FILE = textwrap.dedent('''
    import dataclasses

    import numpy as np

    from iblm_jax import data
    from iblm_jax.data import hashing


    @dataclasses.dataclass(frozen=True)
    class ParityConfig:
      vocab_size: int = 3
      length: int = 8
      num_heldout: int = 20

      def __post_init__(self):
        if self.length < 2:
          raise ValueError(f'length must be at least 2, got {self.length}.')


    class ParitySource(data.GeneratedSource):

      def make_rows(self, i):
        key = hashing.fold(self.split == 'train', self.seed)
        if self.split != 'train':
          key = hashing.fold(7, 7)
        key_nxL = hashing.fold(hashing.fold(key, i)[:, None],
                               np.arange(self.length))
        bit_nxL = hashing.below(key_nxL, 2)
        parity_nx1 = bit_nxL.sum(axis=1, keepdims=True) % 2
        asked_L = np.arange(self.length) == self.length - 1
        return np.concatenate([bit_nxL, parity_nx1], 1), True, asked_L


    data.register(data.Kind('parity', ParityConfig, ParitySource.of_splits))
''')


@pytest.fixture
def parity(tmp_path, monkeypatch):
  monkeypatch.setattr(kinds, '_KINDS', dict(kinds._KINDS))
  path = tmp_path / 'parity_kind.py'
  path.write_text(_FILE)
  spec = importlib.util.spec_from_file_location('parity_kind', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def iterate(source, **options):
  return contextlib.closing(data.make_iterator(source, **options))


def tree(**group):
  return {
      'model': {
          'vocab_size': 4,
          'num_layers': 3,
          'width': 16,
          'num_heads': 2,
          'entropy': {'patch_size': 4},
      },
      'data': {'kind': 'parity', 'batch_size': 8, 'parity': group},
      'optimizer': {'schedule': {'peak': 1e-3}},
      'mesh': {'data': 1},
      'train': {'num_steps': 3},
  }


def test_a_kind_is_one_file(parity, tmp_path):
  assert 'parity' in kinds.names()
  cfg = config_lib.from_dict(tree(length=16))
  assert cfg.data.options == parity.ParityConfig(length=16)
  assert cfg.data.parity == cfg.data.options and cfg.data.text is None
  assert data.split_names(cfg.data) == ('train', 'heldout')
  assert data.row_length(cfg.data) == 16
  written = config_lib.to_dict(cfg)
  assert written['data']['parity'] == {
      'vocab_size': 3, 'length': 16, 'num_heldout': 20
  }
  assert config_lib.from_dict(json.loads(json.dumps(written))) == cfg
  made = data.make_sources(cfg.data)
  assert made['heldout'].num_eval_batches == 3
  with iterate(made['train'], start=3, prefetch=0) as iterator:
    np.testing.assert_equal(next(iterator), made['train'].batch(3))
  batch = made['train'].batch(3)
  np.testing.assert_array_equal(
      batch['tokens'].sum(axis=1) % 2, batch['targets'][:, -1]
  )
  assert batch['loss_mask'].sum() == 8
  last = data.eval_sets(cfg.data)['heldout'].batch(2)
  assert last['mask'][:4].all() and not last['mask'][4:].any()
  assert last['loss_mask'].sum() == 4
  summary = loop.train(
      loop.prepare(cfg, jax.devices()[:1]),
      tmp_path / 'run',
      report=lambda _: None,
  )
  assert 'heldout' in str(summary['eval'])


def test_options_of_a_new_kind_are_checked(parity):
  with pytest.raises(ValueError, match='config.data.parity: length must be'):
    config_lib.from_dict(tree(length=1))
  with pytest.raises(ValueError, match='config.data.parity.lenght is not a f'):
    config_lib.from_dict(tree(lenght=8))
  config = sources.DataConfig('parity', options=parity.ParityConfig())
  assert config == sources.DataConfig('parity', parity=parity.ParityConfig())
  with pytest.raises(ValueError, match="must be one of .*topics.* 'parity'"):
    data.make_documents(config)
  with pytest.raises(ValueError, match="'parity', whose tokens are no text"):
    data.make_tokenizer(config)
  with pytest.raises(ValueError, match='parity must be a ParityConfig .* None'):
    sources.DataConfig('parity')


def test_a_name_is_one_kind(parity):
  with pytest.raises(ValueError, match="'parity' is a kind already"):
    data.register(data.Kind('parity', dict, parity.ParitySource.of_splits))
  with pytest.raises(ValueError, match='make_sources or make_documents'):
    data.Kind('empty', parity.ParityConfig)
  with pytest.raises(ValueError, match="an identifier, got 'a b'"):
    data.Kind('a b', parity.ParityConfig, parity.ParitySource.of_splits)


def test_a_config_has_only_its_groups(parity):
  with pytest.raises(TypeError, match="no field 'batchsize'"):
    sources.DataConfig(batchsize=3)
  with pytest.raises(AttributeError, match="'batchsize'"):
    _ = sources.DataConfig().batchsize


ROWS, LENGTH, VOCAB = 6, 5, 11


class ByNumber:
  """Batches of a function of their number, with no end."""

  def __getitem__(self, k):
    rng = np.random.default_rng(k)
    return {'tokens': rng.integers(0, VOCAB, (ROWS, LENGTH))}


def grain_batches():
  rows = grain.MapDataset.source(np.arange(40)).shuffle(seed=3)
  return rows.map(
      lambda i: {'tokens': (i + np.arange(LENGTH)) % VOCAB}
  ).batch(ROWS, drop_remainder=True)


def grain_rows():
  return grain.MapDataset.source(np.arange(40)).map(
      lambda i: {'tokens': (i + np.arange(LENGTH)) % VOCAB}
  )


MAKERS = {
    'by_number': ByNumber,
    'list': lambda: [ByNumber()[k] for k in range(4)],
    'grain_batches': grain_batches,
    'grain_rows': grain_rows,
    'grain_iter': lambda: grain_batches().repeat().to_iter_dataset(),
}


def wanted(name, k):
  """Tokens of batch k, of the object itself."""
  made = MAKERS[name]()
  if name == 'list':
    return made[k % 4]['tokens']
  if name == 'grain_rows':
    return np.stack([made[k * ROWS + r]['tokens'] for r in range(ROWS)])
  if name == 'grain_iter':
    return grain_batches().repeat()[k]['tokens']
  return made[k]['tokens']


@pytest.mark.parametrize('name', MAKERS)
def test_batches_are_a_function_of_their_number(name):
  make = lambda: data.as_source(
      MAKERS[name](), vocab_size=VOCAB, batch_size=ROWS
  )
  source = make()
  assert (source.batch_size, source.length, source.vocab_size) == (
      ROWS, LENGTH, VOCAB
  )
  assert source.num_eval_batches is None
  for k in (3, 0, 9, 2, 9):
    batch = source.batch(k)
    np.testing.assert_array_equal(batch['tokens'], wanted(name, k))
    assert {key: array.dtype for key, array in batch.items()} == batches.DTYPES
    np.testing.assert_equal(make().batch(k), batch)
    np.testing.assert_equal(
        source.batch(k, [4, 1]),
        {key: array[[4, 1]] for key, array in batch.items()},
    )
  with iterate(make(), rows=[2, 3], num_threads=3) as iterator:
    for _ in range(5):
      next(iterator)
    state = iterator.get_state()
    after = next(iterator)
  np.testing.assert_equal(after, source.batch(5, [2, 3]))
  with iterate(make(), rows=[2, 3]) as iterator:
    iterator.set_state(state)
    np.testing.assert_equal(next(iterator), after)


def test_what_is_missing_is_added():
  tokens = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
  mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
  segment_ids = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]])
  source = data.as_source(
      [{'tokens': tokens, 'mask': mask, 'segment_ids': segment_ids, 'x': 'y'}],
      vocab_size=11,
  )
  found = {key: array.tolist() for key, array in source.batch(0).items()}
  assert found == {
      'tokens': tokens.tolist(),
      'targets': [[2, 3, 4, 5, 0], [7, 8, 9, 10, 0]],
      'loss_mask': [
          [True, False, True, True, False], [True, True, False, False, False]
      ],
      'mask': (mask > 0).tolist(),
      'segment_ids': segment_ids.tolist(),
      'positions': [[0, 1, 0, 1, 2], [0, 1, 2, 0, 0]],
  }
  alone = data.as_source([{'tokens': tokens}], vocab_size=11).batch(0)
  assert alone['mask'].all() and (alone['segment_ids'] == 1).all()
  assert (alone['positions'] == np.arange(5)).all()
  np.testing.assert_array_equal(
      alone['loss_mask'], np.broadcast_to(np.arange(5) < 4, (2, 5))
  )
  targets = np.ones_like(tokens)
  given = data.as_source(
      [{'tokens': tokens, 'targets': targets}], vocab_size=11
  ).batch(0)
  assert given['loss_mask'].all() and (given['targets'] == 1).all()


def test_sources_are_returned_as_they_are():
  source = sources.make_source(sources.DataConfig(batch_size=4))
  assert data.as_source(source, batch_size=4) is source
  with pytest.raises(ValueError, match='that of the source, 4, got 8'):
    data.as_source(source, batch_size=8)
  held = sources.make_source(sources.DataConfig(), 'in_distribution')
  assert data.as_source(held, train=False) is held
  with pytest.raises(ValueError, match='must be None for training.* got 16'):
    data.as_source(held)


def test_evaluation_sets_end():
  source = data.as_source(
      MAKERS['list'](), vocab_size=VOCAB, train=False, batch_size=ROWS
  )
  assert source.num_eval_batches == 4
  with pytest.raises(ValueError, match='k must be .* got 4'):
    source.batch(4)
  rows = data.as_source(
      grain_rows(), vocab_size=VOCAB, train=False, batch_size=ROWS
  )
  assert rows.num_eval_batches == 40 // ROWS
  with pytest.raises(ValueError, match='an evaluation set needs a length'):
    data.as_source(ByNumber(), vocab_size=VOCAB, train=False)


TOKENS = np.ones((2, 3), np.int64)


@pytest.mark.parametrize(
    'batch, message',
    [
        ({'x': TOKENS}, r"must be a mapping with 'tokens', got \['x'\]"),
        (TOKENS, "batch 0 must be a mapping with 'tokens', got ndarray"),
        ({'tokens': TOKENS * 1.0}, r'tokens must be integers .* got float64'),
        ({'tokens': TOKENS[None]}, r'a shape \[B, L\], got \(1, 2, 3\)'),
        ({'tokens': TOKENS * 7}, r'tokens must be between 0 and 6, got 7\.\.7'),
        ({'tokens': -TOKENS}, r'tokens must be between 0 and 6, got -1\.\.-1'),
        ({'tokens': TOKENS, 'targets': TOKENS[:1]}, r'targets .* \(1, 3\)'),
        ({'tokens': TOKENS, 'mask': TOKENS * 2}, 'mask must be .* 0 and 1'),
        ({'tokens': TOKENS, 'mask': TOKENS / 2}, 'mask must be integers'),
        ({'tokens': TOKENS, 'positions': -TOKENS}, 'positions must be between'),
    ],
)
def test_bad_batches_are_refused(batch, message):
  with pytest.raises(ValueError, match=message):
    data.as_source([batch], vocab_size=7)


def test_later_batches_are_checked_too():
  source = data.as_source(
      [{'tokens': TOKENS}, {'tokens': TOKENS[:, :2]}, {'tokens': TOKENS[:1]}],
      vocab_size=7,
  )
  with pytest.raises(ValueError, match='batch 1: tokens must have 3 columns'):
    source.batch(1)
  with pytest.raises(ValueError, match='batch 2: .* batch_size=2 rows, got 1'):
    source.batch(2)


def unseeded():
  rng = np.random.default_rng()
  return grain.MapDataset.range(9).map(
      lambda i: {'tokens': rng.integers(0, 7, (2, 3))}
  ).to_iter_dataset()


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: iter([{'tokens': TOKENS}]), 'cannot be read by number'),
        (lambda: [], 'it holds no batch'),
        (lambda: 3, 'got a int'),
        (unseeded, 'begins otherwise each time .* cannot be restored'),
    ],
)
def test_bad_objects_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    data.as_source(make(), vocab_size=7)


def test_arguments_that_are_missing():
  with pytest.raises(ValueError, match='vocab_size must be given'):
    data.as_source([{'tokens': TOKENS}])
  with pytest.raises(ValueError, match='batch_size must be given'):
    data.as_source(grain_rows(), vocab_size=VOCAB)
  with pytest.raises(ValueError, match='batch_size=4 rows, got 2'):
    data.as_source([{'tokens': TOKENS}], vocab_size=7, batch_size=4)


def test_a_stream_is_read_again_for_a_batch_that_is_gone(monkeypatch):
  monkeypatch.setattr(sources.own, '_KEPT', 2)
  source = data.as_source(MAKERS['grain_iter'](), vocab_size=VOCAB)
  for k in (7, 6, 1, 0, 4):
    np.testing.assert_array_equal(
        source.batch(k)['tokens'], wanted('grain_iter', k)
    )


def test_a_stream_that_ends_says_so():
  source = data.as_source(
      grain_batches().to_iter_dataset(), vocab_size=VOCAB
  )
  with pytest.raises(ValueError, match='ended after 6 batches: repeat it'):
    source.batch(6)


def test_own_data_are_passed():
  config = sources.DataConfig('own')
  with pytest.raises(ValueError, match=r'passed to training.train\(cfg'):
    data.make_sources(config)
  with pytest.raises(ValueError, match='row length of their source'):
    data.row_length(config)
  assert data.split_names(config) == ('train',)


def test_a_grain_dataset_trains_and_resumes(tmp_path):
  """Of kind 'own': the same parameters with and without an interruption."""
  config = {**tree(), 'data': {'kind': 'own', 'batch_size': ROWS}}
  config['model']['vocab_size'] = VOCAB
  cfg = config_lib.from_dict(config)
  assert config_lib.from_dict(config_lib.to_dict(cfg)) == cfg

  class Stops:

    def __init__(self, last):
      self.last = last

    def __getitem__(self, k):
      if k > self.last:
        raise OSError('the disk is gone')
      return grain_batches().repeat()[k]

  def train(folder, source):
    return training.train(
        cfg,
        tmp_path / folder,
        source=source,
        eval_sources={'held': grain_batches()},
        report=lambda _: None,
    )

  config['train'] |= {'checkpoint_every': 1, 'num_steps': 4}
  cfg = config_lib.from_dict(config)
  whole = train('whole', grain_batches())
  assert 'cross_entropy' in whole['eval']['held']
  with pytest.raises(OSError, match='the disk is gone'):
    train('cut', Stops(2))
  cut = train('cut', grain_batches().repeat().to_iter_dataset())
  assert cut['eval'] == whole['eval']
  with pytest.raises(ValueError, match='batch_size=7 rows, got 6'):
    training.train(
        config_lib.from_dict({
            **config, 'data': {'kind': 'own', 'batch_size': 7}
        }),
        tmp_path / 'other',
        source=grain_batches(),
    )
  with pytest.raises(ValueError, match='a program cannot make them'):
    training.train(cfg, tmp_path / 'none')
  assert not (tmp_path / 'other').exists()
  assert not (tmp_path / 'none').exists()


def test_a_written_config_has_the_groups_of_0_1(parity):
  names = (
      'kind batch_size seed num_threads prefetch multiplication markov needle'
      ' text shards topics words pages shard_documents eval_units'
  ).split()
  found = config_lib.to_dict(sources.DataConfig())
  assert list(found) == names
  assert found['multiplication'] == {
      'digits': [1, 2],
      'ood_digits': [3, 3],
      'holdout': 0.1,
      'eval_rows': 1024,
      'length_multiple': 8,
  }
  markov = sources.markov.MarkovConfig(length=16)
  other = config_lib.to_dict(sources.DataConfig('markov', options=markov))
  assert list(other) == names
  assert other['multiplication'] == found['multiplication']
  assert other['markov']['length'] == 16 and found['markov'] is None
  assert other['text'] is None

"""The iterator: sharding by process, exact state, and its threads."""

import contextlib
import dataclasses
import json
import threading
import time

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from iblm_jax.data import batches, kinds, pipeline, sources
from iblm_jax.data.sources import markov, multiplication, needle
from iblm_jax.data.text import files as text
from iblm_jax.data.text import packing


def arithmetic(split='train', batch_size=8, **options):
  config = multiplication.MultiplicationConfig(**options)
  return multiplication.MultiplicationSource(config, split, batch_size, seed=3)


def packed(train=True, batch_size=8):
  rng = np.random.default_rng(0)
  corpus = packing.pack_tokens(
      [rng.integers(0, 97, n) for n in rng.integers(1, 40, 60)],
      bos_id=97,
      eos_id=98,
      pad_id=99,
      vocab_size=100,
  )
  return packing.PackedText(
      corpus, seq_len=16, batch_size=batch_size, seed=5, train=train
  )


MAKERS = [arithmetic, packed]


def take(iterator, n):
  return [next(iterator) for _ in range(n)]


def iterate(source, **options):
  return contextlib.closing(pipeline.make_iterator(source, **options))


@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize('threads,prefetch', [(1, 0), (1, 4), (4, 3), (3, 16)])
def test_batches_come_in_order(make, threads, prefetch):
  source = make()
  with iterate(source, num_threads=threads, prefetch=prefetch) as iterator:
    got = take(iterator, 20)
  np.testing.assert_equal(got, [source.batch(k) for k in range(20)])


@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize('process_count', [1, 2, 4, 8])
def test_processes_share_the_global_batch(make, process_count):
  """Their rows, in order, are the batch of a single process."""
  shares = []
  for process_index in range(process_count):
    rows = batches.process_rows(8, process_index, process_count)
    with iterate(make(), rows=rows) as iterator:
      shares.append(take(iterator, 5))
  source = make()
  for k in range(5):
    for key, values in source.batch(k).items():
      parts = [share[k][key] for share in shares]
      assert all(part.shape[0] == 8 // process_count for part in parts)
      np.testing.assert_array_equal(np.concatenate(parts), values)


@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize('prefetch', [0, 5])
def test_state_is_exact(make, prefetch):
  """What was read ahead does not count; the state survives JSON."""
  with iterate(make(), prefetch=prefetch) as iterator:
    take(iterator, 7)
    state = json.loads(json.dumps(iterator.get_state()))
    wanted = take(iterator, 40)
  assert state == {'next_index': 7}
  with iterate(make(), prefetch=prefetch, num_threads=2) as iterator:
    take(iterator, 3)  # Fills the buffer with batches that must go.
    iterator.set_state(state)
    assert iterator.get_state() == state
    np.testing.assert_equal(take(iterator, 40), wanted)


def test_state_goes_to_another_number_of_processes():
  with iterate(packed(), rows=batches.process_rows(8, 1, 2)) as iterator:
    take(iterator, 6)
    state = iterator.get_state()
  with iterate(packed(), rows=batches.process_rows(8, 3, 4)) as iterator:
    iterator.set_state(state)
    got = next(iterator)
  np.testing.assert_equal(got, packed().batch(6, range(6, 8)))


@pytest.mark.parametrize('make', MAKERS)
def test_start_is_the_first_batch(make):
  source = make()
  with iterate(source, start=1000) as iterator:
    np.testing.assert_equal(next(iterator), source.batch(1000))
    assert iterator.get_state() == {'next_index': 1001}


@pytest.mark.parametrize(
    'source',
    [
        arithmetic('in_distribution', eval_rows=50),
        arithmetic('out_of_distribution', eval_rows=16),
        packed(train=False),
    ],
)
def test_evaluation_sets_end_and_can_be_resumed(source):
  wanted = [source.batch(k) for k in range(source.num_eval_batches)]
  with iterate(source, num_threads=2) as iterator:
    np.testing.assert_equal(list(iterator), wanted)

  class Dataset:

    def __iter__(self):
      return pipeline.make_iterator(source)

  grain.experimental.assert_equal_output_after_checkpoint(Dataset())


@pytest.mark.parametrize('make', MAKERS)
def test_state_goes_into_a_checkpoint(make, tmp_path):
  """Through orbax, beside the arrays of a run."""
  arrays = {'w': np.arange(3.0)}
  with iterate(make()) as iterator:
    take(iterator, 11)
    with ocp.CheckpointManager(tmp_path) as manager:
      manager.save(
          11,
          args=ocp.args.Composite(
              state=ocp.args.StandardSave(arrays),
              data=grain.checkpoint.CheckpointSave(iterator),
          ),
      )
      manager.wait_until_finished()
    wanted = take(iterator, 10)
  with iterate(make()) as iterator:
    with ocp.CheckpointManager(tmp_path) as manager:
      manager.restore(
          11,
          args=ocp.args.Composite(
              state=ocp.args.StandardRestore(arrays),
              data=grain.checkpoint.CheckpointRestore(iterator),
          ),
      )
    np.testing.assert_equal(take(iterator, 10), wanted)


def reading_threads():
  return [t for t in threading.enumerate() if t.name.startswith('grain-pre')]


def test_threads_end_with_the_iterator():
  before = set(reading_threads())
  with iterate(packed(), num_threads=3, prefetch=8) as iterator:
    take(iterator, 5)
    assert set(reading_threads()) - before
  deadline = time.monotonic() + 10
  while set(reading_threads()) - before:
    assert time.monotonic() < deadline, 'threads outlive the iterator'
    time.sleep(0.01)
  with pytest.raises(ValueError, match='closed'):
    next(iterator)


def test_error_of_a_thread_reaches_the_caller():

  class Broken:
    batch_size, length, vocab_size, num_eval_batches = 1, 1, 1, None

    def batch(self, k, rows=None):
      raise OSError(f'batch {k} cannot be read')

  with iterate(Broken()) as iterator:
    with pytest.raises(OSError, match='batch 0 cannot be read'):
      next(iterator)


@pytest.mark.parametrize(
    'options,message',
    [
        ({'prefetch': -1}, 'prefetch must be .* got -1'),
        ({'num_threads': 0}, 'num_threads must be .* got 0'),
        ({'start': -1}, 'start must be .* got -1'),
    ],
)
def test_bad_arguments_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    pipeline.make_iterator(arithmetic(), **options)


@pytest.mark.parametrize(
    'arguments,message',
    [
        ((8, 0, 3), 'must be a multiple of process_count.*=8.*=3'),
        ((8, 0, 0), 'process_count must be .* got 0'),
        ((8, 2, 2), 'process_index must be .* 0 and 1, got 2'),
    ],
)
def test_bad_process_numbers_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    batches.process_rows(*arguments)


def test_start_beyond_an_evaluation_set_is_refused():
  with pytest.raises(ValueError, match='start must be .* 0 and 2, got 3'):
    pipeline.make_iterator(
        arithmetic('in_distribution', eval_rows=16), start=3
    )


@pytest.mark.parametrize('process_count', [1, 2, 3, 6])
def test_process_rows_cut_the_batch_in_equal_parts(process_count):
  parts = [
      list(batches.process_rows(6, p, process_count))
      for p in range(process_count)
  ]
  assert sum(parts, []) == list(range(6))
  assert {len(part) for part in parts} == {6 // process_count}


def test_sources_of_multiplication():
  config = sources.DataConfig(batch_size=4, seed=1)
  made = sources.make_sources(config)
  assert tuple(made) == sources.split_names(config) == multiplication.SPLITS
  assert tuple(sources.eval_sets(config)) == multiplication.SPLITS[1:]
  np.testing.assert_equal(
      sources.make_source(config).batch(2), made['train'].batch(2)
  )
  assert made['train'].num_eval_batches is None
  other = sources.make_source(sources.DataConfig(batch_size=4, seed=2))
  assert (other.batch(0)['tokens'] != made['train'].batch(0)['tokens']).any()


@pytest.mark.parametrize(
    'kind, options, source, names, vocab_size',
    [
        (
            'markov',
            markov.MarkovConfig(vocab_size=32, length=24),
            markov.MarkovSource,
            ('train', 'heldout'),
            32,
        ),
        (
            'needle',
            needle.NeedleConfig(num_chunks=3, chunk_length=8),
            needle.NeedleSource,
            ('train', 'chunk_0', 'chunk_1'),
            64,
        ),
    ],
)
def test_sources_of_artificial_rows(kind, options, source, names, vocab_size):
  config = sources.DataConfig(
      kind=kind, batch_size=4, seed=1, **{kind: options}
  )
  made = sources.make_sources(config)
  assert tuple(made) == sources.split_names(config) == names
  assert tuple(sources.eval_sets(config)) == names[1:]
  for split in names:
    wanted = source(options, split, batch_size=4, seed=1)
    np.testing.assert_equal(made[split].batch(2), wanted.batch(2))
    np.testing.assert_equal(
        sources.make_source(config, split).batch(2), wanted.batch(2)
    )
  assert {source.length for source in made.values()} == {24}
  assert sources.row_length(config) == 24
  assert {source.vocab_size for source in made.values()} == {vocab_size}
  missing = f"{kind} must be a .* for kind='{kind}', got None"
  with pytest.raises(ValueError, match=missing):
    sources.DataConfig(kind=kind)
  with pytest.raises(ValueError, match=f'{kind} must be a .* or None, got 3'):
    sources.DataConfig(**{kind: 3})
  with pytest.raises(ValueError, match='kind must be one of .*topics'):
    sources.make_documents(config)


def test_sources_of_text(tmp_path):
  lines = [f'line number {i}' for i in range(200)]
  (tmp_path / 'a.txt').write_text('\n'.join(lines))
  options = text.TextConfig(
      paths=str(tmp_path), documents='line', seq_len=32, holdout=0.2
  )
  config = sources.DataConfig(kind='text', batch_size=2, text=options)
  made = sources.make_sources(config)
  assert list(made) == ['train', 'validation']
  assert {source.length for source in made.values()} == {32}
  assert {source.vocab_size for source in made.values()} == {259}
  tokenizer = sources.make_tokenizer(config)
  _, validation = text.split_documents(lines, 0.2)
  seen = []
  source = made['validation']
  for k in range(source.num_eval_batches):
    batch = source.batch(k)
    seen += batch['targets'][batch['mask']].tolist()
  documents = ''.join(
      '\n' if t == tokenizer.eos_id else chr(t) for t in seen
  ).splitlines()
  assert documents == validation
  for k in range(3):
    np.testing.assert_equal(
        sources.eval_sets(config)['validation'].batch(k), source.batch(k)
    )
  # Another seed shuffles training, and leaves validation as it is.
  other = sources.make_sources(dataclasses.replace(config, seed=1))
  np.testing.assert_equal(other['validation'].batch(0), source.batch(0))
  first = made['train'].batch(0)['tokens']
  assert (other['train'].batch(0)['tokens'] != first).any()


@pytest.mark.parametrize(
    'kind, name, lines, options, vocab_size',
    [
        ('words', 'w.txt', ['a', 'bc', 'def', 'gh'], {}, 27),
        ('pages', 'p.jsonl', [
            f'{{"id": "{i}", "text": "{"x" * i}"}}' for i in range(1, 5)
        ], {'stride': 4}, 257),
        ('topics', None, [], {'num_heldout': 1}, 27),
    ],
)
def test_sources_of_documents(
    tmp_path, kind, name, lines, options, vocab_size
):
  if name:
    (tmp_path / name).write_text('\n'.join(lines) + '\n')
    options = options | {'path': str(tmp_path / name)}
  config = sources.DataConfig(
      kind=kind, batch_size=2, eval_units=1,
      **{kind: kinds.get(kind).options(num_train=3, length=8, **options)},
  )
  made = sources.make_sources(config)
  assert tuple(made) == sources.split_names(config) == ('train', 'heldout')
  assert {source.length for source in made.values()} == {8}
  assert sources.row_length(config) == 8
  assert {source.vocab_size for source in made.values()} == {vocab_size}
  documents = sources.make_documents(config)
  assert (documents.num_train, documents.num_heldout) == (3, 1)
  held = made['heldout']
  assert held.num_eval_batches == 1
  rows = documents.rows('heldout', [0])
  np.testing.assert_equal(
      {k: v[:1] for k, v in held.batch(0).items()}, documents.read(rows)
  )
  assert not held.batch(0)['mask'][1].any()
  np.testing.assert_equal(
      sources.make_source(config).batch(5), made['train'].batch(5)
  )
  with pytest.raises(ValueError, match='kind must be one of .*multiplication'):
    sources.make_documents(sources.DataConfig())
  with pytest.raises(ValueError, match=f'{kind} must be a .* got None'):
    sources.DataConfig(kind=kind)


def test_text_without_holdout_has_no_validation_set(tmp_path):
  (tmp_path / 'a.txt').write_text('to be or not to be')
  options = text.TextConfig(paths=str(tmp_path), seq_len=8, holdout=0.0)
  config = sources.DataConfig(kind='text', text=options)
  assert sources.eval_sets(config) == {}
  assert list(sources.make_sources(config)) == ['train']
  with pytest.raises(ValueError, match=r"split must be one of \('train',\)"):
    sources.make_source(config, 'validation')


@pytest.mark.parametrize(
    'options,message',
    [
        ({'kind': 'images'}, "kind must be one of .* got 'images'"),
        ({'kind': 'text'}, 'text must be a TextConfig .* got None'),
        ({'text': {}}, 'text must be a TextConfig or None, got {}'),
        ({'multiplication': None}, 'multiplication must be .* got None'),
        ({'batch_size': 0}, 'batch_size must be .* got 0'),
        ({'seed': 1.5}, 'seed must be .* got 1.5'),
        ({'prefetch': -1}, 'prefetch must be .* got -1'),
        ({'num_threads': 0}, 'num_threads must be .* got 0'),
    ],
)
def test_bad_config_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    sources.DataConfig(**options)

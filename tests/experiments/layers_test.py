"""The survey of layers in the spectrum program, checkpoints side by side."""

import json
import math
import re

import gpt2_files
import jax
import numpy as np
import observations
import programs
import pytest

from iblm_jax.analysis import layer_survey
from iblm_jax.analysis import subject as subject_lib
from iblm_jax.data.text import tokenizers
from iblm_jax.experiments._harness import results
from iblm_jax.experiments.spectrum import layer_figures, layers


def program(*args, status=0):
  return programs.run('experiments.spectrum', *args, status=status)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two models and a text."""
  path = tmp_path_factory.mktemp('models')
  gpt2_files.write(path / 'one')
  gpt2_files.write(path / 'two')
  (path / 'again').mkdir()
  gpt2_files.write(path / 'again' / 'one')
  line = json.dumps({'text': 'Zwölf Boxkämpfer jagen Viktor über den Deich.'})
  (path / 'text.jsonl').write_text(20 * (line + '\n'))
  return path


@pytest.fixture(scope='module')
def out(folder, tmp_path_factory):
  """A quick look at both, as a user takes it."""
  workdir = tmp_path_factory.mktemp('look') / 'out'
  done = program(
      '--smoke', f'--workdir={workdir}', f'--text={folder}/text.jsonl',
      '--tokenizer=bytes', f'--checkpoint={folder}/one',
      f'--checkpoint={folder}/two',
  )
  said = r'one: \d.*nats a token, perplexity .* bits a byte'
  assert re.search(said, done.stdout)
  return workdir


def test_one_file_holds_all_checkpoints(out):
  tree = results.read(out / 'results.json')
  names = ['one', 'one untrained', 'two', 'two untrained']
  assert list(tree['layers']) == names
  assert [row['method'] for row in tree['rows']] == [
      'one layer 00', 'two layer 00'
  ]
  for name in names:
    found = tree['layers'][name]
    model = found['model']
    assert model['perplexity'] == pytest.approx(
        math.exp(model['cross_entropy']), rel=1e-4
    )
    # A token is a byte; the ends of documents are tokens only.
    bits = model['cross_entropy'] / math.log(2)
    assert bits < model['bits_per_byte'] < 1.1 * bits
    for part, metrics in (
        ('prompts', layer_figures.PROMPTS), ('data', layer_figures.DATA)
    ):
      for metric, _ in metrics:
        if metric == 'diff_erank' and name.endswith('untrained'):
          continue
        value = found[part][metric]
        if part == 'prompts':
          (low, high), = value['ci95']
          assert low <= value['mean'][0] <= high
          assert value['n'] == [model['prompts']]
        else:
          assert len(value) == 1 and math.isfinite(value[0])
  # Both files hold the same weights.
  assert tree['layers']['one'] == tree['layers']['two']
  assert tree['layers']['one'] != tree['layers']['one untrained']


def test_the_difference_to_the_untrained_model_is_that_of_ranks(out):
  found = results.read(out / 'results.json')['layers']
  name = 'entropy_centered_normalized/order_1'
  rank = lambda model: math.exp(found[model]['prompts'][name]['mean'][0])
  assert found['one']['data']['diff_erank'][0] == pytest.approx(
      rank('one untrained') - rank('one'), abs=1e-3
  )


def test_one_page_holds_all_figures(out):
  page = (out / 'report.html').read_text()
  pictures = sorted(path.stem for path in out.glob('*.png'))
  assert len(pictures) == 2 + 2 * 4
  assert page.count('data:image/png;base64,') == len(pictures)
  assert 'Layers of one against one untrained against two' in page
  assert 'bits a byte' in page and 'Diff-eRank' in page


def test_what_is_done_is_not_done_again(out, folder):
  before = (out / 'results.json').read_bytes()
  arguments = (
      '--smoke', f'--workdir={out}', f'--text={folder}/text.jsonl',
      '--tokenizer=bytes', f'--checkpoint={folder}/one',
  )
  again = program(*arguments, f'--checkpoint={folder}/two')
  assert 'finished before' in again.stdout
  assert (out / 'results.json').read_bytes() == before
  other = program(*arguments, status=2)
  assert 'holds results with other settings' in other.stderr


def test_bad_flags_are_refused_before_anything_is_measured(tmp_path, folder):
  workdir = tmp_path / 'out'
  common = (
      f'--workdir={workdir}', f'--text={folder}/text.jsonl',
      '--tokenizer=bytes', f'--checkpoint={folder}/one',
  )
  for arguments, message in (
      ((f'--checkpoint={folder}/again/one',), "different names, got 'one'"),
      (('--views=1',), '--views must be 0 or at least 2, got 1'),
      (('--length=2',), 'length'),
  ):
    assert message in program(*common, *arguments, status=2).stderr
  done = program(
      '--smoke', f'--workdir={workdir}', f'--text={folder}/text.jsonl', status=2
  )
  assert '--text needs a --checkpoint' in done.stderr
  assert not workdir.exists()


def make(folder, **options):
  return subject_lib.make(
      str(folder / 'one'), text=str(folder / 'text.jsonl'), tokenizer='bytes',
      tokens=128, **options
  )


def test_bytes_of_targets_are_counted(folder):
  subject = make(folder, length=16)
  assert subject.length == 16
  text = 'Zwölf Boxkämpfer jagen Viktor über den Deich.'.encode()
  # 128 positions are two documents of 48 bytes and an end, and part of another.
  batch = subject.read(0)
  real = np.asarray(batch['targets'])[np.asarray(batch['loss_mask'])]
  expected = int((real < 256).sum())
  assert subject.count_bytes(batch) == expected
  assert expected > 2 * len(text)


def test_bytes_of_other_tokenizers_are_those_of_their_text(folder):
  class Words(tokenizers.DigitTokenizer):
    def decode(self, ids):
      return 'ä ' * len(ids)

  subject = make(folder)
  batch = subject.read(0)
  object.__setattr__(subject, 'tokenizer', Words())
  assert subject.count_bytes(batch) == 3 * int(batch['loss_mask'].sum())


def test_an_untrained_model_reads_the_same(folder):
  subject = make(folder)
  fresh = subject_lib.untrained(subject)
  assert fresh.name == 'one untrained' and fresh.read is subject.read
  a, b = subject.params['embed']['tokens'], fresh.params['embed']['tokens']
  assert a.shape == b.shape and not np.allclose(a, b)


def test_what_has_no_value_is_left_out_of_means(monkeypatch, tmp_path, folder):
  survey = layer_survey.Survey(
      {'curvature': np.array([[1.0, np.nan, 3.0], [np.nan] * 3])},
      {'lidar': np.array([2.0, np.inf])},
      {'tokens': 3},
  )
  monkeypatch.setattr(layer_survey, 'survey', lambda *_, **__: survey)
  path = tmp_path / 'kept.json'
  tree = layers.measure(make(folder), path, print, views=0)
  assert tree['prompts']['curvature']['mean'] == [2.0, None]
  assert tree['prompts']['curvature']['n'] == [2, 0]
  assert tree['prompts']['curvature']['ci95'][1] == [None, None]
  assert tree['data']['lidar'] == [2.0, None]
  ranks = {'entropy_centered_normalized/order_1': {'mean': [0.0, None]}}
  none = tree | {'prompts': ranks}
  assert layers.compare(none, none)['data']['diff_erank'] == [0.0, None]
  monkeypatch.undo()
  assert layers.measure(make(folder), path, print, views=0) == tree


@pytest.fixture(scope='module')
def runs():
  return observations.made() / 'runs'


def test_a_checkpoint_of_a_run_is_one_of_its_steps(runs):
  options = dict(text=None, tokenizer=None, tokens=64)
  newest = subject_lib.make(str(runs / 'decoder'), **options)
  steps = sorted(int(p.name) for p in (runs / 'decoder/checkpoints').iterdir())
  last, first = (
      subject_lib.make(str(runs / f'decoder/checkpoints/{step}'), **options)
      for step in (steps[-1], steps[0])
  )
  assert last.name == f'decoder step {steps[-1]}'
  same = lambda a, b: jax.tree.all(jax.tree.map(np.array_equal, a, b))
  assert same(newest.params, last.params)
  assert steps[0] == steps[-1] or not same(first.params, last.params)
  with pytest.raises(ValueError, match='12345'):
    subject_lib.make(str(runs / 'decoder/checkpoints/12345'), **options)


def test_layers_without_a_state_for_each_token_are_refused(runs, tmp_path):
  done = program(
      f'--workdir={tmp_path}/out', f'--checkpoint={runs}/memory', status=2
  )
  assert "family 'memory' cannot be measured by prompt" in done.stderr
  assert not (tmp_path / 'out').exists()

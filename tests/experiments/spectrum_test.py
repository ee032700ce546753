"""The spectrum program: what it reads, what it measures, what it refuses."""

import dataclasses
import json
import pathlib

import gpt2_files
import jax
import numpy as np
import observations
import programs
import published_models
import pytest

from iblm_jax import information
from iblm_jax.analysis import layer_spectra as measure_lib
from iblm_jax.analysis import subject as subject_lib
from iblm_jax.experiments._harness import program as program_lib
from iblm_jax.experiments._harness import results
from iblm_jax.experiments.spectrum import rows as spectrum_rows
from iblm_jax.models import decoder

ROOT = pathlib.Path(__file__).parent.parent.parent
SIZES = (24, 48)


def program(*args, status=0):
  return programs.run('experiments.spectrum', *args, status=status)


@pytest.fixture(scope='module')
def subject():
  return subject_lib.make_smoke()


@pytest.fixture(scope='module')
def found(subject, tmp_path_factory):
  path = tmp_path_factory.mktemp('sums') / 'sums.npz'
  return measure_lib.measure(subject, SIZES, path, lambda _: None)


def test_numbers_are_those_of_the_library(subject, found):
  assert subject.num_batches == 1
  batch = subject.read(0)

  @jax.jit
  def profiles(params):
    arrays = {'mask': batch['mask'], 'segment_ids': batch['segment_ids']}
    hidden = decoder.apply(
        params,
        batch['tokens'],
        subject.model,
        positions=batch['positions'],
        collect='hidden',
        **arrays,
    ).hidden
    return {
        size: information.compression_profile(
            hidden[1], patch_size=size, **arrays
        )
        for size in SIZES
    }

  assert found['tokens'] == batch['mask'].sum()
  for size, profile in profiles(subject.params).items():
    entropy_CxA = found[f'entropy/patch_{size}'][1]
    for center, name in ((0, 'entropy'), (1, 'entropy_centered')):
      for order in ('1', '2', 'inf'):
        index = measure_lib.ORDERS.index(float(order))
        assert entropy_CxA[center, index] == pytest.approx(
            float(profile[f'{name}/order_{order}']), abs=5e-6
        )
    same = {
        'mean_share': found[f'mean_share/patch_{size}'][1],
        'effective_rank': found[f'effective_rank/patch_{size}'][1, 0],
        'entropy_normalized/order_2': found[
            f'entropy_normalized/patch_{size}'
        ][1],
        'rms': found['rms'][1],
    }
    for name, value in same.items():
      assert value == pytest.approx(float(profile[name]), rel=1e-5)


def test_spectra_are_probabilities_and_entropies_fall_with_the_order(found):
  for size in SIZES:
    p_NxCxK = found[f'spectrum/patch_{size}']
    assert p_NxCxK.shape == (3, 2, 24)
    np.testing.assert_allclose(p_NxCxK.sum(-1), 1, atol=1e-5)
    assert (np.diff(p_NxCxK, axis=-1) <= 1e-7).all()
    assert (np.diff(found[f'entropy/patch_{size}'], axis=-1) < 1e-5).all()


def test_measuring_goes_on_where_it_stopped(subject, found, tmp_path):
  """Two batches, cut after the first, which is not read again."""
  path, reads = tmp_path / 'sums.npz', []

  def read(k):
    reads.append(k)
    return subject.read(0)

  first = dataclasses.replace(subject, read=read, num_batches=1)
  both = dataclasses.replace(subject, read=read, num_batches=2)
  lines = []
  measure_lib.measure(first, SIZES, path, lines.append)
  again = measure_lib.measure(both, SIZES, path, lines.append)
  assert reads == [0, 1]
  assert lines[1] == 'going on from batch 1 of 2'
  for name, value in found.items():
    twice = 2 if name.startswith(('tokens', 'windows')) else 1
    np.testing.assert_allclose(again[name], twice * value, rtol=1e-12)


def test_rows_and_tables_fit_the_results_file(subject, found, tmp_path):
  rows = spectrum_rows.make_rows(subject, found, SIZES, 24)
  assert [row['layer'] for row in rows] == [0, 1, 2]
  order_2 = found['entropy/patch_24'][:, 0, 3]
  assert [row['entropy/order_2'] for row in rows] == order_2.tolist()
  assert [row['entropy/order_2/patch_24'] for row in rows] == order_2.tolist()
  assert rows[0]['entropy/order_2/patch_48'] == (
      found['entropy/patch_48'][0, 0, 3]
  )
  tree = results.write(
      tmp_path / 'results.json',
      experiment='spectrum', claim='', command='', settings={}, rows=rows,
      baseline=None, wall_seconds=1.0,
      tables=spectrum_rows.make_tables(subject, 48, 24),
  )
  assert set(tree['tables']) == {'windows_of_24', 'whole_rows'}


@pytest.fixture
def text(tmp_path):
  path = tmp_path / 'text.jsonl'
  line = json.dumps({'text': 'forty-two bytes of a text for this small test.'})
  path.write_text(5 * (line + '\n'))
  return path


def make(path, **options):
  return subject_lib.make(
      str(path), **{'text': None, 'tokenizer': None, 'tokens': 64, **options}
  )


def test_a_gpt2_and_a_text(tmp_path, text):
  folder = gpt2_files.write(tmp_path / 'tiny')
  subject = make(folder, text=str(text), tokenizer='bytes')
  assert (subject.name, subject.length, subject.num_batches) == ('tiny', 32, 1)
  batch = subject.read(0)
  assert batch['tokens'].shape == (2, 32)
  assert bytes(batch['tokens'][0, 1:6].astype(np.uint8)) == b'forty'
  # Documents are told apart in windows; positions run on, as in its training.
  assert batch['segment_ids'][1].max() == 2
  assert batch['positions'].tolist() == 2 * [list(range(32))]
  assert subject.params['embed']['tokens'].dtype == np.float32


def test_a_published_model_and_a_text(tmp_path):
  settings = published_models.SETTINGS['qwen2']
  folder = published_models.save(
      tmp_path / 'tiny', settings, published_models.weights(settings)
  )
  text = tmp_path / 'text.txt'
  text.write_text('w3 w1 w2 ' * 200)
  subject = make(folder, text=str(text), length=8, tokens=24)
  assert (subject.name, subject.length, subject.num_layers) == ('tiny', 8, 2)
  assert subject.read(0)['tokens'][0, :4].tolist()[-2:] != [0, 0]
  assert subject.settings['checkpoint'] == 'tiny'
  with pytest.raises(ValueError, match='text must be given'):
    make(folder)
  with pytest.raises(ValueError, match="'nothing-like-it' is not installed"):
    make('package:nothing-like-it', text=str(text))


def test_what_cannot_be_read_is_refused(tmp_path, text):
  with pytest.raises(ValueError, match='nowhere.* does not exist'):
    make(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='must be the folder of a run'):
    make(text)
  folder = gpt2_files.write(tmp_path / 'tiny')
  with pytest.raises(ValueError, match='text must be given'):
    make(folder)
  with pytest.raises(ValueError, match='no .*tokenizer.json beside'):
    make(folder, text=str(text))
  with pytest.raises(ValueError, match="file '.*missing.txt' does not exist"):
    make(folder, text=str(tmp_path / 'missing.txt'), tokenizer='bytes')
  (folder / 'config.json').write_text(json.dumps({'n_head': 3}))
  with pytest.raises(ValueError, match='is not a GPT-2: width must be'):
    make(folder, text=str(text), tokenizer='bytes')


def test_the_program(tmp_path):
  workdir = tmp_path / 'out'
  program('--smoke', f'--workdir={workdir}')
  tree = results.read(workdir / 'results.json')
  assert tree['experiment'] == 'spectrum' and len(tree['rows']) == 3
  observations.check_results('spectrum', tree)
  for name in ('entropy', 'rank', 'patch_size', 'spectra'):
    assert (workdir / f'{name}.png').read_bytes().startswith(b'\x89PNG')
  before = {p: p.read_bytes() for p in workdir.iterdir()}
  again = program('--smoke', f'--workdir={workdir}')
  assert 'finished before' in again.stdout
  assert {p: p.read_bytes() for p in workdir.iterdir()} == before


def test_a_workdir_of_something_else_is_refused(tmp_path):
  settings = {'checkpoint': 'a', 'sizes': [2, 4]}
  program_lib.check_settings(settings, tmp_path)
  (tmp_path / 'settings.json').write_text(json.dumps(settings))
  program_lib.check_settings(settings, tmp_path)
  with pytest.raises(ValueError, match=r'other settings \(checkpoint\)'):
    program_lib.check_settings(settings | {'checkpoint': 'b'}, tmp_path)
  (tmp_path / 'settings.json').rename(tmp_path / 'results.json')
  with pytest.raises(ValueError, match='results of something else'):
    program_lib.check_settings(settings, tmp_path)


def test_bad_flags_are_refused(tmp_path):
  done = program(
      f'--workdir={tmp_path}/out', '--checkpoint=nowhere', status=2
  )
  assert "checkpoint 'nowhere' does not exist" in done.stderr
  assert not (tmp_path / 'out').exists()

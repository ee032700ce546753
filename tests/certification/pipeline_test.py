"""A certificate through the program, checked, tampered with and repeated."""

import copy
import dataclasses
import functools
import hashlib
import json
import math
import shutil
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpy_decoder
import pytest
from etils import epath
from programs import run, start

from iblm_jax import bounds, errors
from iblm_jax.bounds import claims as claims_lib
from iblm_jax.bounds import options as bound_options
from iblm_jax.certification import (
    assembly,
    document_losses,
    quantisation,
    tuning,
    verification,
)
from iblm_jax.certification import pipeline as certification
from iblm_jax.data.sources import words as wordlist
from iblm_jax.experiments._harness import results
from iblm_jax.training import lock, manifest, restoring

WORDS = [a + b + c for a in 'abcdefgh' for b in 'xyz' for c in ('', 'no', 'a')]
NUM_TRAIN = 60
# Everything is the smallest that still has all parts.
CONFIG = '''
from ml_collections import config_dict

def get_config():
  return config_dict.ConfigDict(dict(
      model=dict(
          vocab_size=27, num_layers=1, width=8, num_heads=1,
          activation='relu2', positions='rotary', tie_embeddings=False,
          document_mask=False, scan_layers=False,
          entropy=dict(patch_size=4)),
      data=dict(
          kind='words', batch_size=8, eval_units=8,
          words=dict(path={path!r}, num_train={num_train}, length=8)),
      objective=dict(
          method='ce', measure_entropy=False, skip_first=0, skip_last=0),
      optimizer=dict(
          weight_decay=0.0, schedule=dict(peak=0.1, warmup_steps=0)),
      parameterisation=dict(kind='subspace', dims=(3, 4), entries='sign'),
      train=dict(num_steps=6, log_every=3, checkpoint_every=3),
      certificate=dict(
          levels=(3, 5), tuning_steps=2, alphas=(0.05, 0.5), top_k=(1,),
          sample=40, heldout=9, search_bits=2.5)))
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('certificates')
  (path / 'words.txt').write_text('\n'.join(WORDS) + '\n')
  (path / 'config.py').write_text(
      CONFIG.format(path=str(path / 'words.txt'), num_train=NUM_TRAIN)
  )
  return path


def args(folder, name, *more, config='config.py'):
  return [f'--config={folder}/{config}', f'--workdir={folder / name}', *more]


@pytest.fixture(scope='module')
def made(folder):
  """Folder of a certificate that the program made."""
  run('certify', *args(folder, 'whole'))
  return folder / 'whole' / 'certificate'


def read(made):
  tree = json.loads((made / 'certificate.json').read_text())
  with np.load(made / 'losses.npz') as file:
    return tree, file['losses'], file['errors']


@pytest.fixture(scope='module')
def subject(made):
  """Config, job and decoded model, by the library."""
  tree, _, _ = read(made)
  model = tree['model']
  cfg = certification.from_dict(
      {**model['config'], 'certificate': model['certificate']}
  )
  job = certification.prepare(cfg)
  w_d = quantisation.decode(
      (made / 'code.bin').read_bytes(), 12, tree['code']['levels'],
      cfg.certificate,
  )
  trained = job.program.parameterisation.from_vector(jnp.asarray(w_d))
  return cfg, job, w_d, job.program.model_params(trained)


def test_what_is_coded_and_paid_for(made, subject):
  tree, _, _ = read(made)
  cfg, job, w_d, _ = subject
  levels, size = tree['code']['levels'], 8 * (made / 'code.bin').stat().st_size
  assert levels in (3, 5) and len(set(w_d.tolist())) <= levels
  assert w_d.size == 12 and len(set(w_d.tolist())) > 1
  # Where training stopped; two tuning steps do not move it far.
  before = np.asarray(restoring.restore_trained(cfg.run, made.parent).params)
  assert np.corrcoef(before, w_d)[0, 1] > 0.5
  assert tree['code']['payload'] == size
  assert tree['code']['total'] == pytest.approx(
      size + 2 * math.floor(math.log2(size)) + 1 + math.log2(2) + 2.5
  )
  assert tree['hashes']['decoded'] == hashlib.sha256(w_d.tobytes()).hexdigest()
  assert tree['population']['sampling'] == 'without replacement'
  assert tree['population']['m'] == NUM_TRAIN


def test_losses_are_those_of_the_decoded_model(made, subject):
  """Word by word, in float64 NumPy."""
  tree, losses, errors = read(made)
  cfg, job, _, params = subject
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  documents = job.source.documents

  def score(split, number):
    batch = documents.read(documents.rows(split, [number]))
    scored = batch['loss_mask'][0]
    tokens, targets = batch['tokens'][0][scored], batch['targets'][0][scored]
    assert targets[-1] == wordlist.END_ID
    logits, _ = numpy_decoder.forward(params, tokens, cfg.run.model)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = p[np.arange(targets.size), targets]
    smoothed = [-np.log2((1 - a) * p + a / 27).mean() for a in (0.05, 0.5)]
    return smoothed, (logits.argmax(axis=1) != targets).mean()

  code = (made / 'code.bin').read_bytes()
  drawn = certification.sample(code, NUM_TRAIN, 40)
  assert losses.shape == (2, 40) and errors.shape == (1, 40)
  assert len(np.unique(drawn)) < 40  # with replacement
  for column in range(8):
    smoothed, error = score('train', drawn[column])
    np.testing.assert_allclose(losses[:, column], smoothed, atol=1e-5)
    assert errors[0, column] == error
  held = [score('heldout', number) for number in range(9)]
  assert tree['heldout']['documents'] == 9
  assert tree['heldout']['top-1 error'] == pytest.approx(
      np.mean([error for _, error in held])
  )
  for claim in tree['claims']:
    if claim['alpha'] is not None:
      row = [smoothed[claim['alpha'] == 0.5] for smoothed, _ in held]
      name = f'bits per token, {claim["kind"]}'
      assert tree['heldout'][name] == pytest.approx(np.mean(row), abs=1e-5)


def test_claims_follow_from_the_losses(made):
  tree, losses, errors = read(made)
  nats = tree['code']['total'] * math.log(2)
  # Two smoothings: both of them in both draws; half of delta for each draw.
  values = []
  for alpha, row in zip((0.05, 0.5), losses, strict=True):
    width = math.log2(1 + (1 - alpha) * 27 / alpha)
    values.append(
        row.mean()
        + width * math.sqrt((nats + math.log(2 / 0.025)) / (2 * NUM_TRAIN))
        + width * math.sqrt(math.log(2 / 0.025) / (2 * 40))
    )
  claims = {(c['loss'], c['kind']): c for c in tree['claims']}
  hoeffding = claims['bits per token', 'hoeffding']
  assert hoeffding['value'] == pytest.approx(min(values), rel=1e-12)
  assert hoeffding['alpha'] == (0.05, 0.5)[int(np.argmin(values))]
  assert claims['bits per token', 'reference']['delta'] is None
  best = claims['bits per token', 'log_wealth']
  assert best['delta'] == 0.05 and best['value'] < hoeffding['value']
  assert best['trivial'] == pytest.approx(math.log2(27))
  assert claims['top-1 error', 'log_wealth']['empirical'] == errors.mean()
  for claim in tree['claims']:
    terms = tree['terms'][f'{claim["loss"]}, {claim["kind"]}']['sum']
    assert sum(terms.values()) == pytest.approx(claim['value'])


@pytest.mark.parametrize('population', [None, 60])
def test_all_units_scored(population):
  """No second draw; no prediction from earlier draws of a finite population."""
  cfg = bound_options.CertificateConfig(
      sample=None, alphas=(0.1, 0.5), top_k=(1, 2)
  )
  rng = np.random.default_rng(0)
  losses, errors = rng.uniform(1, 3, (2, 50)), rng.uniform(0, 1, (2, 50))
  claims = {
      (c['loss'], c['kind']): c
      for c in claims_lib.make_claims(
          losses,
          errors,
          vocab_size=27,
          total_bits=9.0,
          m=50,
          population=population,
          cfg=cfg,
          tokens=700,
          token_losses_A=np.array([1.5, 2.5]),
      )
  }
  values = {'hoeffding': [], 'log_wealth': [], 'freedman': []}
  for row, alpha in zip(losses, (0.1, 0.5), strict=True):
    lo, _, width = bounds.smooth_range(alpha, 27)
    rest = (9, 50, 0.05)
    values['hoeffding'].append(
        bounds.occam_hoeffding(row.mean(), 9, 50, width, 0.05, n_alpha=2)
    )
    values['log_wealth'].append(
        bounds.occam_logwealth(row, lo, width, *rest, n_alpha=2)
    )
    values['freedman'].append(
        bounds.empirical_freedman(
            row, lo, width, *rest, n_alpha=2,
            predictions=None if population is None else math.log2(27),
        )
    )
    if population is not None:
      values.setdefault('log_wealth_finite', []).append(
          bounds.occam_logwealth_finite(
              row, lo, width, 9, 60, 0.05, n_alpha=2
          )
      )
      values.setdefault('serfling', []).append(
          bounds.occam_serfling(row.mean(), 9, 50, 60, width, 0.05, n_alpha=2)
      )
      values.setdefault('counting', []).append(
          (row.sum() + 10 * (lo + width)) / 60
      )
  values['azuma_tokens'] = [
      mean + math.log2(1 + (1 - alpha) * 27 / alpha) * math.sqrt(
          (9 * math.log(2) + math.log(2 / 0.05)) / (2 * 700)
      )
      for mean, alpha in ((1.5, 0.1), (2.5, 0.5))
  ]
  for kind, both in values.items():
    claim = claims['bits per token', kind]
    assert claim['value'] == pytest.approx(min(both), rel=1e-12)
    assert ('unseen' in claim) == (
        population is not None and kind != 'azuma_tokens'
    )
    if 'unseen' in claim:
      # Means over what was seen and what was not make up the mean over all.
      whole = (50 * claim['empirical'] + 10 * claim['unseen']) / 60
      assert whole == pytest.approx(claim['value'])
  assert set(values) == {
      kind for loss, kind in claims if loss == 'bits per token'
  }
  if population is not None:
    counting = claims['bits per token', 'counting']
    assert counting['delta'] == 0
    assert claims['bits per token', 'log_wealth_finite']['value'] <= (
        counting['value']
    )
  kinds = {kind for loss, kind in claims if loss == 'top-2 error'}
  assert kinds - {'log_wealth_finite'} == {'kl', 'log_wealth'}
  assert ('log_wealth_finite' in kinds) == (population is not None)
  assert claims['top-1 error', 'kl']['value'] == bounds.occam_kl(
      errors[0].mean(), 9, 50, 0.05, n_alpha=2
  )


def test_the_sample_is_known_only_after_the_code():
  first = certification.sample(b'code', 1000, 20_000)
  assert first.min() >= 0 and first.max() < 1000
  counts = np.bincount(first, minlength=1000)
  # Chi-square with 999 degrees of freedom.
  assert abs(((counts - 20) ** 2 / 20).sum() - 999) < 5 * math.sqrt(2 * 999)
  other = certification.sample(b'codf', 1000, 20_000)
  assert (first == other).mean() < 0.01
  np.testing.assert_array_equal(
      first[:100], certification.sample(b'code', 1000, 100)
  )
  np.testing.assert_array_equal(
      certification.sample(b'code', 5, None), range(5)
  )


def leaves(tree, path=()):
  if isinstance(tree, dict | list):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
      yield from leaves(value, (*path, key))
  elif isinstance(tree, int | float) and not isinstance(tree, bool):
    yield path, tree


@pytest.fixture
def cached(monkeypatch, subject):
  """Verifying again and again, with its expensive parts done once."""
  cfg, job, _, _ = subject
  measure = document_losses.measure
  held = {}

  def once(params, model, documents, split, indices, **options):
    total = sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(params))
    key = (total, split, tuple(indices), options['alphas'], options['top_k'])
    if key not in held:
      held[key] = measure(params, model, documents, split, indices, **options)
    return held[key]

  def prepare(changed):
    assert changed == cfg  # the hash of the model is looked at first
    return job

  monkeypatch.setattr(document_losses, 'measure', once)
  monkeypatch.setattr(certification, 'prepare', prepare)


def verify(folder):
  """On the data that lie where the certificate says, and does not lead."""
  tree = json.loads((folder / 'certificate.json').read_text())
  path = tree['model']['config']['data']['words']['path']
  verification.verify(epath.Path(folder), lambda line: None, path)


def test_every_number_counts(made, tmp_path, cached):
  verify(made)
  tree, _, _ = read(made)
  copied = tmp_path / 'certificate'
  shutil.copytree(made, copied)
  numbers = list(leaves(tree))
  assert len(numbers) > 100
  kinds = {path[0] for path, _ in numbers}
  assert kinds == tree.keys() - {'hashes'}
  for path, value in numbers:
    changed = copy.deepcopy(tree)
    *parents, last = path
    node = functools.reduce(lambda node, key: node[key], parents, changed)
    # The last digit of a float, and one more of anything that is counted.
    whole = isinstance(value, int)
    node[last] = value + 1 if whole else np.nextafter(value, math.inf).item()
    (copied / 'certificate.json').write_text(json.dumps(changed))
    with pytest.raises(verification.Mismatch, match=str(path[0])):
      verify(copied)


@pytest.mark.parametrize(
    'path, value, said',
    [
        (('claims', 2, 'value'), 1.0, r'claims\.2\.value is 1\.0 in'),
        (('heldout', 'top-1 error'), 0.1, r'heldout\.top-1 error is 0\.1 in'),
        (('code', 'levels'), 7, r'code\.levels must be one of \(3, 5\).*got 7'),
        (('population', 'tokens'), 3, r'population\.tokens is 3 in'),
        (('hashes', 'decoded'), 'ab', r"hashes\.decoded is 'ab' in"),
        (('hashes', 'data'), 'ab', r"hashes\.data is 'ab' in"),
        (('made', 'seconds'), 1.0, r'hashes\.parts\.made is'),
        (('model', 'config', 'train', 'seed'), 1, r'hashes\.parts\.model is'),
        (('more',), 1, r'certificate\.more is 1 in .* None here'),
    ],
)
def test_says_what_differs(made, tmp_path, cached, path, value, said):
  tree, _, _ = read(made)
  shutil.copytree(made, tmp_path / 'c')
  *parents, last = path
  functools.reduce(lambda node, key: node[key], parents, tree)[last] = value
  (tmp_path / 'c' / 'certificate.json').write_text(json.dumps(tree))
  with pytest.raises(verification.Mismatch, match=said):
    verify(tmp_path / 'c')


def forge(made, copied, **arrays):
  """Other losses with their own hash, as somebody who cheats writes them."""
  shutil.copytree(made, copied)
  tree, losses, errors = read(made)
  with np.load(made / 'losses.npz') as file:
    held = dict(file) | arrays
  np.savez(copied / 'losses.npz', **held)
  data = (copied / 'losses.npz').read_bytes()
  tree['hashes']['losses'] = hashlib.sha256(data).hexdigest()
  (copied / 'certificate.json').write_text(json.dumps(tree))


def test_forged_losses(made, tmp_path, cached):
  _, losses, errors = read(made)
  forge(made, tmp_path / 'a', losses=losses - 2e-4)
  with pytest.raises(verification.Mismatch, match='losses here by 0.0002'):
    verify(tmp_path / 'a')
  # With the same mean: another variance would give another bound.
  signs = np.resize([1, -1], errors.shape)
  forge(made, tmp_path / 'b', errors=errors + 0.01 * signs)
  with pytest.raises(verification.Mismatch, match='errors here by 0'):
    verify(tmp_path / 'b')
  forge(made, tmp_path / 'c', losses=losses[:, 1:])
  with pytest.raises(verification.Mismatch, match=r'shape \(2, 39\), \(2, 40'):
    verify(tmp_path / 'c')


def test_a_bit_of_any_byte(made, tmp_path, cached):
  copied = tmp_path / 'c'
  shutil.copytree(made, copied)
  for name in ('code.bin', 'losses.npz'):
    data = (made / name).read_bytes()
    for place in range(0, len(data), max(len(data) // 50, 1)):
      changed = bytearray(data)
      changed[place] ^= 1 << place % 8
      (copied / name).write_bytes(changed)
      with pytest.raises(verification.Mismatch, match=r'hashes\.[cl]o'):
        verify(copied)
    (copied / name).write_bytes(data)
  verify(copied)


def test_another_code_has_other_losses(made, tmp_path, cached, subject):
  """With the right hash in the certificate: the model differs."""
  cfg, _, w_d, _ = subject
  tree, _, _ = read(made)
  levels = tree['code']['levels']
  values = np.unique(w_d)
  codebook = np.zeros(levels, np.float16)
  codebook[: values.size] = values
  symbols = np.searchsorted(values, w_d)
  symbols[0] = (symbols[0] + 1) % values.size
  data = bounds.encode(symbols, levels, 'kt', codebook=codebook)
  shutil.copytree(made, tmp_path / 'c')
  (tmp_path / 'c' / 'code.bin').write_bytes(data)
  tree['hashes']['code'] = hashlib.sha256(data).hexdigest()
  (tmp_path / 'c' / 'certificate.json').write_text(json.dumps(tree))
  with pytest.raises(verification.Mismatch, match='losses'):
    verify(tmp_path / 'c')


def test_verify_program(folder, made, tmp_path):
  words = folder / 'words.txt'
  text = words.read_text()
  moved = tmp_path / 'moved.txt'
  words.rename(moved)
  done = run('certify', f'--verify={made}', f'--data={moved}')
  assert 'verified: ' in done.stdout
  assert 'words.txt' in run('certify', f'--verify={made}', status=1).stderr
  moved.rename(words)
  words.write_text(text.replace('axno', 'axon'))
  done = run('certify', f'--verify={made}', f'--data={words}', status=1)
  words.write_text(text)
  assert 'not verified: hashes.data is' in done.stderr
  shutil.copytree(made, tmp_path / 'c')
  (tmp_path / 'c' / 'certificate.json').write_text('{}')
  done = run('certify', f'--verify={tmp_path}/c', status=1)
  assert "holds no certificate: KeyError('hashes')" in done.stderr
  (tmp_path / 'c' / 'code.bin').unlink()
  done = run('certify', f'--verify={tmp_path}/c', status=2)
  assert 'must hold code.bin' in done.stderr


def contents(folder):
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_a_finished_certificate_is_kept(folder, made):
  before = contents(made.parent)
  done = run('certify', *args(folder, 'whole'))
  assert 'holds this certificate' in done.stdout
  assert 'bits per token, log_wealth: at most' in done.stdout
  done = run(
      'certify', *args(folder, 'whole', '--config.certificate.search_bits=0'),
      status=2,
  )
  assert 'config.certificate.search_bits is 2.5 there and 0' in done.stderr
  assert contents(made.parent) == before


def test_killed_and_resumed_is_the_same_to_the_byte(folder, made):
  """Stopped between training and the certificate, then run to the end."""
  killed = start('certify', *args(folder, 'killed'))
  killed.wait_until(lambda: '3 levels: ' in killed.stdout)
  killed.send_signal(signal.SIGKILL)
  killed.wait()
  assert not (folder / 'killed/certificate/certificate.json').exists()
  done = run('certify', *args(folder, 'killed'))
  assert 'finished at step 6' in done.stdout
  again = folder / 'killed' / 'certificate'
  for name in ('code.bin', 'losses.npz'):
    assert (again / name).read_bytes() == (made / name).read_bytes()
  trees = [read(made)[0], read(again)[0]]
  for tree in trees:
    assert tree['made'].pop('seconds') > 0
    tree['hashes']['parts'].pop('made')
  assert trees[0] == trees[1]


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--config.parameterisation.kind=lora'], 'dims must be None for kind'),
        (['--config.data.words.path=no.txt'], 'no.txt'),
        (['--config.data.words.num_train=72'], 'num_train must be below'),
        (['--config.certificate.levels=(3,3)'], 'levels must be finite, dist'),
        (['--config.certificate.sample=0'], 'sample must be'),
        (['--config.model.vocab_size=9'], 'vocab_size must be at least'),
        (['--verify=x'], 'one of --workdir and --verify'),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(folder, flags, message):
  done = run('certify', *args(folder, 'never', *flags), status=2)
  lines = done.stderr.strip().splitlines()
  assert message in lines[-1] and 'Traceback' not in done.stderr
  assert not (folder / 'never').exists()


@pytest.mark.parametrize(
    'change, said',
    [
        (dict(parameterisation=None), 'parameterisation must be given'),
        (dict(data=dict(kind='multiplication')), 'kind must be one of .*words'),
        (dict(certificate=dict(levels=['a'])), r"levels must be .* got \('a',"),
        (dict(certificate=dict(alphas=[0.5, 0.5])), 'alphas must be distinct'),
        (dict(certificate=dict(search_bits=1e400)), 'search_bits must be fin'),
        (dict(certificate=dict(scheme='zip')), 'scheme must be one of'),
        (dict(certificate=dict(delta=0.0)), 'delta must be'),
        (dict(certificate=dict(search=1)), 'search is not a field'),
    ],
)
def test_bad_options(subject, change, said):
  cfg, _, _, _ = subject
  tree = {**certification.config.to_dict(cfg.run), **change}
  with pytest.raises(ValueError, match=said):
    certification.from_dict(tree)


def test_without_documents_held_out(subject):
  cfg, _, _, _ = subject
  tree = certification.config.to_dict(cfg.run)
  tree['data'] |= {
      'kind': 'topics', 'topics': dict(num_train=5, num_heldout=0, length=8)
  }
  with pytest.raises(ValueError, match='must hold documents out'):
    certification.prepare(certification.from_dict(tree))


def test_without_the_coder(monkeypatch, made):
  monkeypatch.setitem(sys.modules, 'constriction', None)
  with pytest.raises(ValueError, match='certify'):
    verification.check_files(epath.Path(made))


@pytest.mark.parametrize('first', [False, True])
def test_the_code_that_loses_least_is_kept(made, subject, first):
  cfg, job, w_d, _ = subject
  tree, _, _ = read(made)
  levels = tree['code']['levels']
  run_subject = certification.subject_of(cfg, job)
  good = quantisation.Code((made / 'code.bin').read_bytes(), levels)
  values = 50 * np.linspace(-1, 1, levels).astype(np.float16)
  symbols = np.arange(w_d.size, dtype=np.int32) % levels
  bad = quantisation.Code(
      bounds.encode(symbols, levels, 'kt', codebook=values), levels
  )
  candidates = [
      assembly.Candidate(code, run_subject, w_d)
      for code in ((good, bad) if first else (bad, good))
  ]
  best = assembly.choose(candidates, cfg.certificate, lambda line: None)
  assert best.code.data == good.data


def test_tuning_reads_what_training_has_not(subject):
  cfg, job, w_d, _ = subject
  asked = []

  class Spy:
    def batch(self, k):
      asked.append(k)
      return job.source.batch(k)

  options = dataclasses.replace(cfg.certificate, levels=(3,), tuning_steps=3)
  spied = job._replace(source=Spy())
  quantisation.quantise(
      w_d, options,
      tune=functools.partial(
          tuning.tune, job=spied, cfg=options, report=lambda line: None
      ),
  )
  assert asked == [6, 7, 8]  # training has read 0 to 5


@pytest.mark.parametrize('codebook', ['kmeans', 'step'])
def test_decoding_gives_the_nearest_stored_values(codebook):
  """A step survives: multiples of it that float16 cannot hold."""
  cfg = bound_options.CertificateConfig(levels=(15,), codebook=codebook)
  w_d = np.random.default_rng(0).normal(size=200).astype(np.float32)
  (code,) = quantisation.quantise(w_d, cfg)
  found = quantisation.decode(code.data, 200, 15, cfg)
  if codebook == 'step':
    step, _ = bounds.fit_step(w_d, 15)
    values = np.arange(-7, 8) * float(step)
  else:
    values = np.unique(found).astype(np.float64)
    np.testing.assert_array_equal(values, values.astype(np.float16))
  nearest = values[np.abs(w_d[:, None] - values).argmin(axis=1)]
  np.testing.assert_array_equal(found, nearest.astype(np.float32))


def test_dims_to_choose_from(folder):
  """Each is trained; what was chosen is paid for, and can be verified."""
  text = (folder / 'config.py').read_text()
  (folder / 'dims.py').write_text(
      text.replace('levels=(3, 5),', 'levels=(3,), dims=((2, 2), (3, 4)),')
  )
  done = run('certify', *args(folder, 'chosen', config='dims.py'))
  workdir = folder / 'chosen'
  assert 'best certificate' in done.stdout
  made = workdir / 'certificate'
  tree, _, _ = read(made)
  numbers = tree['code']['numbers']
  dims = tree['model']['config']['parameterisation']['dims']
  assert math.prod(dims) == numbers and numbers in (4, 12)
  assert tree['code']['choice'] == 1.0  # of two
  for name, size in (('dims_2x2', 4), ('dims_3x4', 12)):
    config = json.loads((workdir / name / 'config.json').read_text())
    assert math.prod(config['parameterisation']['dims']) == size
    assert (workdir / name / 'checkpoints').is_dir()
  verify(made)
  # A choice that is not among those paid for.
  tree['model']['config']['parameterisation']['dims'] = [2, 3]
  part = json.dumps(tree['model'], sort_keys=True).encode()
  tree['hashes']['parts']['model'] = hashlib.sha256(part).hexdigest()
  (made / 'certificate.json').write_text(json.dumps(tree))
  with pytest.raises(verification.Mismatch, match='dims must be one of'):
    verify(made)


def test_headline_must_be_possible(subject):
  cfg, _, _, _ = subject
  with pytest.raises(ValueError, match="headline='freedman' needs sample=None"):
    bound_options.CertificateConfig(headline='freedman')
  tree = certification.config.to_dict(cfg.run)
  tree['data'] |= {
      'kind': 'topics', 'topics': dict(num_train=9, num_heldout=5, length=8)
  }
  tree['certificate'] = dict(sample=None, headline='serfling')
  with pytest.raises(ValueError, match='is for finite lists'):
    certification.prepare(certification.from_dict(tree))


def test_table_of_certificates(folder, made, tmp_path):
  done = run(
      'experiments.certified', f'--workdir={tmp_path}', f'--runs={made.parent}'
  )
  assert 'of 1 certificates' in done.stdout
  (row,) = results.read(tmp_path / 'results.json')['rows']
  tree, _, _ = read(made)
  claims = {(c['loss'], c['kind']): c for c in tree['claims']}
  claim = claims['bits per token', 'log_wealth']
  assert row['method'] == 'whole'
  assert row['bound/log_wealth'] == pytest.approx(claim['value'], rel=1e-5)
  assert row['population'] == len(WORDS) and row['units'] == NUM_TRAIN
  refused = run(
      'experiments.certified', f'--workdir={tmp_path}', f'--runs={tmp_path}',
      status=2,
  )
  assert 'certificate.json does not exist' in refused.stderr


def test_a_folder_makes_one_certificate_at_a_time(tmp_path):
  """Before anything else is looked at."""
  with lock.held(tmp_path):
    with pytest.raises(errors.RunFailed, match='is in use by another run'):
      certification.certify(None, tmp_path, print, [])
  assert not any(tmp_path.iterdir())


def test_a_finished_certificate_says_that_its_data_changed(folder, made):
  """Where they are looked at: the record stands for the words of before."""
  shutil.copytree(made.parent, folder / 'changed')
  path = folder / 'changed/data.json'
  ((name, known),) = json.loads(path.read_text()).items()
  assert 'words.txt' in name and known.keys() == {'bytes', 'sha256'}
  path.write_text(json.dumps({name: known | {'sha256': 'f' * 64}}))
  for place in path.parent.glob('checkpoints/*/run.json'):
    tree = json.loads(place.read_text())
    tree['data'] = manifest.digest(path.parent, 'data.json')
    place.write_text(json.dumps(tree))
  program = run('certify', *args(folder, 'changed'), status=2)
  assert "words.txt' has other contents" in program.stderr

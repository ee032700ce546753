"""Programs on a model that others trained, named by its path."""

import json

import numpy as np
import published_models
import pytest
from programs import run

from iblm_jax import bounds
from iblm_jax.bounds import claims

pytest.importorskip('safetensors')
pytest.importorskip('tokenizers')

WORDS = [a + b + c for a in 'abcdefgh' for b in 'xyz' for c in ('', 'no', 'a')]
CONFIG = '''
from ml_collections import config_dict

def get_config():
  return config_dict.ConfigDict(dict(
      data=dict(
          kind='words', batch_size=8, eval_units=8,
          words=dict(path={path!r}, num_train=60, length=8)),
      objective=dict(
          method='ce', measure_entropy=False, skip_first=0, skip_last=0),
      optimizer=dict(schedule=dict(peak=0.1, warmup_steps=0)),
      parameterisation=dict(
          kind='sublora', dims=6,
          lora=dict(patterns=['attention/query/kernel'], rank=1)),
      train=dict(num_steps=2),
      certificate=dict(
          levels=(3,), alphas=(0.05,), betas=(0.1, 0.3), shortest=2,
          sample=config_dict.placeholder(int), heldout=9)))
'''


@pytest.fixture(scope='module')
def published(tmp_path_factory):
  """A Llama of two layers, with its settings and tensors."""
  folder = tmp_path_factory.mktemp('published') / 'model'
  settings = published_models.SETTINGS['llama']
  tensors = published_models.weights(settings)
  published_models.save(folder, settings, tensors)
  return folder, settings, tensors


def test_a_prompt_is_continued(published):
  folder, settings, tensors = published
  tokens = [3, 1, 4]
  for _ in range(6):
    logits = published_models.logits(settings, tensors, np.array(tokens))
    tokens.append(int(logits[-1].argmax()))
    if tokens[-1] == 47:
      break
  expected = ' '.join(f'w{token}' for token in tokens if token != 47)
  found = run(
      'generate', f'--checkpoint={folder}', '--prompt=w3 w1 w4',
      '--max_tokens=6',
  ).stdout
  assert found.replace('\n', ' ').split() == expected.split()


def test_mistakes_of_sampling(published, tmp_path):
  folder = published[0]
  for args in (
      [], [f'--checkpoint={folder}', f'--workdir={tmp_path}'],
      [f'--checkpoint={tmp_path}'],
  ):
    done = run('generate', *args, status=2)
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_added_to_it_is_certified(published, tmp_path):
  folder, settings, tensors = published
  data = tmp_path / 'words.txt'
  data.write_text('\n'.join(WORDS) + '\n')
  (tmp_path / 'config.py').write_text(CONFIG.format(path=str(data)))
  workdir = tmp_path / 'run'
  run(
      'certify', f'--config={tmp_path}/config.py', f'--workdir={workdir}',
      f'--config.start.pretrained={folder}',
  )
  made = workdir / 'certificate'
  tree = json.loads((made / 'certificate.json').read_text())
  start = tree['model']['config']['start']
  assert tree['code']['numbers'] == 6
  (excess,) = (
      claim for claim in tree['claims']
      if claim['loss'] == claims.EXCESS and claim['kind'] == 'log_wealth'
  )
  assert tree['heldout'][f'{claims.EXCESS}, log_wealth'] <= bounds.excess_limit(
      excess['alpha'], 2
  )
  check = [f'--verify={made}', f'--data={data}']
  moved = folder.rename(tmp_path / 'elsewhere')
  done = run('certify', *check, f'--base={moved}')
  assert 'verified: ' in done.stdout
  assert f'the model of SHA-256 {start["sha256"]} was made' in done.stdout
  # A path in a certificate is not followed.
  done = run('certify', *check, status=1)
  assert 'name it with --base' in done.stderr
  name = next(iter(tensors))
  other = published_models.save(
      tmp_path / 'other', settings, tensors | {name: 2 * tensors[name]}
  )
  done = run('certify', *check, f'--base={other}', status=1)
  assert 'must be the model that the run began with' in done.stderr
  done = run('certify', *check, f'--base={tmp_path}', status=1)
  assert 'config.json does not exist' in done.stderr

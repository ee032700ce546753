"""What version 0.1 left is read, resumed, verified and drawn as it was then.

Its numbers are met to the last bit on the kind of machine that made them;
elsewhere compilers may differ, and three digits are compared.
"""

import json
import shutil

import numpy as np
import observations
import pytest
from programs import run

from iblm_jax import config
from iblm_jax.experiments._harness import results
from iblm_jax.reports import tables

HERE = observations.FOLDER.relative_to(observations.FOLDER.parents[2])
same, expected = observations.check_same, observations.expected


@pytest.fixture
def made():
  """What 0.1 made; tests copy what they change."""
  return observations.made()


@pytest.mark.parametrize('name', ['decoder', 'memory', 'sublora'])
def test_a_stopped_run_ends_as_it_would_have(made, tmp_path, name):
  wanted, workdir = expected()['runs'][name], tmp_path / name
  shutil.copytree(made / 'runs' / name, workdir)
  before = (workdir / 'config.json').read_bytes()
  done = run('main', f'--config={HERE}/{name}.py', f'--workdir={workdir}')
  middle, last = wanted['middle'], wanted['last']
  assert f'resumed from the checkpoint of step {middle}' in done.stdout
  same(observations.metrics(workdir), wanted['metrics'])
  same(observations.summary(workdir), wanted['summary'])
  same(observations.state(workdir, last), wanted['state'])
  assert (workdir / 'config.json').read_bytes() == before


def test_the_table_of_a_report(made, tmp_path):
  folders = [made / 'finished' / name for name in ('decoder', 'sublora')]
  run('report', *folders, f'--out={tmp_path}/report')
  table = (tmp_path / 'report/table.csv').read_text()
  assert table == expected()['table'] and table.count('\n') == 3


def test_the_certificate_verifies(made, tmp_path):
  data = f'--data={HERE}/words.txt'
  done = run('certify', f'--verify={made}/certificate', data)
  assert 'verified: ' in done.stdout
  copied = tmp_path / 'certificate'
  shutil.copytree(made / 'certificate', copied)
  path = copied / 'certificate.json'
  tree = json.loads(path.read_text())
  tree['claims'][0]['value'] -= 1e-6
  path.write_text(json.dumps(tree))
  done = run('certify', f'--verify={copied}', data, status=1)
  assert 'not verified: ' in done.stderr and 'claims' in done.stderr


def test_results_are_drawn_byte_for_byte(made):
  folder = made / 'results'
  text = (folder / 'page.md').read_text(encoding='utf-8')
  assert text.count('<!-- table: ') > 15 and '| ce_tuned | ' in text
  load = lambda name: results.read(folder / name)
  assert tables.rewrite(text, load) == text
  lines = [line for line in text.split('\n') if not line.startswith('| ')]
  assert len(lines) < text.count('\n')
  assert tables.rewrite('\n'.join(lines), load) == text


@pytest.mark.parametrize(
    'name',
    [
        'certificates', 'conflict', 'cycle', 'fresh', 'memory',
        'multiplication', 'pretraining', 'spectrum', 'sweep',
    ],
)
def test_results_are_those_of_their_rows(made, name):
  tree = results.read(made / f'results/{name}.json')
  assert results.summarise(tree['rows']) == tree['summary']
  baseline = tree['paired']['baseline']
  assert results.compare(tree['rows'], baseline) == tree['paired']


def test_configs_of_old_runs_are_those_of_the_files():
  """So that a run of any of them goes on."""
  old = expected()['configs']
  new = observations.configs(observations.FOLDER.parents[2] / 'configs')
  assert new.keys() >= old.keys() and len(old) > 30
  for name, tree in old.items():
    kept, made = (config.from_dict(one) for one in (tree, new[name]))
    assert kept == made, name


@pytest.mark.parametrize('kind', observations.DATA)
def test_batches(made, kind):
  found = observations.streams(kind, made / 'shards')
  assert found == expected()['streams'][kind] and len(found) >= 3


def test_shards(tmp_path):
  run(
      'data.prepare', HERE / 'text.txt', f'--out={tmp_path}/shards',
      '--documents=paragraph', '--holdout=0.3', '--shard_tokens=150',
      '--workers=1',
  )
  assert observations.files(tmp_path / 'shards') == expected()['shards']


@pytest.mark.parametrize('name', observations.MODELS)
def test_models(name):
  same(observations.model(name), expected()['models'][name])


@pytest.mark.parametrize('name', observations.PROJECTORS)
def test_projectors(name):
  same(observations.projected(name), expected()['projectors'][name])


def test_a_hash_sees_every_bit():
  tree = {'a': np.arange(3.0), 'b': {'c': np.zeros([])}}
  changed = [
      {**tree, 'a': np.nextafter(tree['a'], 9.0)},
      {**tree, 'a': tree['a'][:, None]},
      {**tree, 'a': tree['a'].astype(np.float32)},
      {'a': tree['a'], 'd': tree['b']},
      {**tree, 'b': {'c': -tree['b']['c']}},
  ]
  hashes = {observations.digest(one)['sha256'] for one in (tree, *changed)}
  assert len(hashes) == 6

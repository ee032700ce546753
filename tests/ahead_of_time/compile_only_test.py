"""The training step compiled for TPU slices that are not here.

Needs the extra `aot`. Not part of the default suite: .ci/run installs the extra
and runs these one at a time.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent

SMALL = [
    '--config.model.num_layers=4',
    '--config.model.width=512',
    '--config.model.num_heads=4',
    '--config.model.vocab_size=50304',
    '--config.data.shards.seq_len=512',
    '--config.data.batch_size=32',
]


def compile_for(workdir, topology, *args, config='gpt2.py:small_gapt'):
  """Runs the program; the report that it leaves."""
  done = subprocess.run(
      [
          sys.executable, '-m', 'iblm_jax.main', '--compile_only',
          f'--config=configs/{config}', f'--topology={topology}',
          f'--workdir={workdir}', *args,
      ],
      cwd=ROOT, capture_output=True, text=True, check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert [path.name for path in workdir.iterdir()] == ['compile.json']
  report = json.loads((workdir / 'compile.json').read_text())
  assert f'{report["parameters"]:,} parameters' in done.stdout
  return report


def collectives(report):
  return {kind['kind']: kind for kind in report['collectives']}


@pytest.fixture(scope='module', autouse=True)
def compiler():
  if importlib.util.find_spec('libtpu') is None:
    pytest.fail("these tests need the extra: pip install '.[aot]'")


@pytest.fixture(scope='module')
def sharded(tmp_path_factory):
  """GAPT with parameters split over 16 chips."""
  workdir = tmp_path_factory.mktemp('aot') / 'gapt'
  return compile_for(workdir, 'v5e:4x4', '--config.mesh.fsdp=16', *SMALL)


def test_meshes_that_cut_an_axis_of_the_slice():
  """2 x 64 does not lie along the sides of 4 x 4 x 8 chips."""
  script = (
      'import jax; jax.config.update("jax_platforms", "cpu")\n'
      'from iblm_jax.training.scale import mesh, topology\n'
      'devices = topology.devices("v5p-256")\n'
      'made = mesh.make_mesh(mesh.MeshConfig(data=2, fsdp=64), devices)\n'
      'print(len({d.id for d in made.devices.flat}), dict(made.shape))\n'
  )
  done = subprocess.run(
      [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True,
      check=False,
  )
  assert "128 {'data': 2, 'fsdp': 64, 'tensor': 1}" in done.stdout, done.stderr


def test_report_of_a_slice(sharded):
  assert sharded['devices'] == {'count': 16, 'kind': 'TPU v5 lite'}
  assert sharded['mesh'] == {'data': 1, 'fsdp': 16, 'tensor': 1}
  memory = sharded['memory']
  # Parameters and two moments in float32, a sixteenth on each chip.
  state = 3 * 4 * sharded['parameters'] / 16
  assert state < memory['arguments'] < 1.05 * state
  assert memory['shared'] > 0.99 * state, 'the state is donated'
  assert memory['total'] < 15.75 * 2**30
  bounds = sharded['bounds']
  assert bounds['arithmetic'] == pytest.approx(
      sharded['flops']['step'] / 16 / 197e12
  )
  received = sum(kind['received'] for kind in sharded['collectives'])
  assert bounds['communication'] == pytest.approx(received / 200e9)


def test_no_collective_is_larger_than_the_embedding_table(sharded):
  """Weights are gathered layer by layer, in bf16; activations never."""
  table = 50304 * 512 * 2
  largest = {name: kind['largest'] for name, kind in
             collectives(sharded).items()}
  assert all(size <= 1.01 * table for size in largest.values()), largest


def test_entropy_and_gate_add_no_communication_of_activations(
    sharded, tmp_path
):
  plain = compile_for(
      tmp_path / 'ce', 'v5e:4x4', '--config.mesh.fsdp=16', *SMALL,
      config='gpt2.py:small_ce',
  )
  ours, theirs = collectives(sharded), collectives(plain)
  assert ours.keys() == theirs.keys()
  for kind, found in ours.items():
    # A number a layer and a few scalars may be summed over devices.
    assert found['bytes'] - theirs[kind]['bytes'] < 1024, kind
    if kind != 'all-reduce':
      assert found['count'] == theirs[kind]['count'], kind


def test_tensor_axis_and_muon(tmp_path):
  """The paper's model, with heads and MLP split over two chips."""
  report = compile_for(
      tmp_path / 'muon', 'v6e:2x4', *SMALL, '--config.mesh.fsdp=4',
      '--config.mesh.tensor=2', '--config.train.windows=256',
      '--config.model.window=256', '--config.model.width=256',
      '--config.model.num_heads=2', config='fineweb.py:small_gapt',
  )
  assert report['devices']['kind'] == 'TPU v6 lite'
  assert report['memory']['total'] < 32e9


def test_what_does_not_fit_is_refused_by_the_compiler(tmp_path):
  done = subprocess.run(
      [
          sys.executable, '-m', 'iblm_jax.main', '--compile_only',
          '--config=configs/gpt2.py:small_ce', '--topology=v5e:2x2',
          '--config.model.remat=none', '--config.data.batch_size=1024',
          '--config.model.num_layers=3', f'--workdir={tmp_path}',
      ],
      cwd=ROOT, capture_output=True, text=True, check=False,
  )
  assert done.returncode == 1, done.stdout + done.stderr
  assert 'does not fit the memory of the devices' in done.stderr
  assert 'Traceback' not in done.stderr
  assert not list(tmp_path.iterdir())

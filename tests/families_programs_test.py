"""An autoencoder, and a memory model that begins with its encoder, as runs.

A person starts them, stops them and starts them again.
"""

import hashlib
import json
import re
import shutil
import signal

import jax
import numpy as np
import programs
from run_folders import assert_same_run, final_state

from iblm_jax.training import checkpoints

STEPS = 60
SMALL = [
    f'--config.train.num_steps={STEPS}',
    '--config.train.log_every=1',
    '--config.train.eval_every=0',
    '--config.train.checkpoint_every=0',
    '--config.data.batch_size=4',
    '--config.data.markov.num_heldout=4',
    '--config.objective.measure_entropy=False',
    *(
        f'--config.model.{stack}.{field}'
        for stack in ('encoder', 'decoder')
        for field in ('num_layers=1', 'width=16', 'mlp_width=32')
    ),
]
AUTOENCODER = ['--config=configs/autoencoder.py:smoke', *SMALL]
MEMORY = [
    '--config=configs/memory.py:smoke', *SMALL, '--config.task.also_measure=()'
]


def stop_and_resume(workdir, args):
  """A run that is asked to stop after its third step, and goes on."""
  stopped = programs.start('main', *args, f'--workdir={workdir}')
  stopped.wait_until(
      lambda: re.search(r'^step +3/', stopped.stdout, re.MULTILINE)
  )
  stopped.send_signal(signal.SIGTERM)
  stopped.wait()
  assert stopped.poll() == 143, str(stopped)
  step, = checkpoints.intact_steps(workdir / 'checkpoints')
  assert 3 <= step < STEPS
  done = programs.run('main', *args, f'--workdir={workdir}')
  assert f'resumed from the checkpoint of step {step}' in done.stdout


def digest(params):
  """SHA-256 of all numbers, in the order of the sorted paths."""
  sha = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    sha.update(np.asarray(leaf).tobytes())
  return sha.hexdigest()


def test_runs_of_two_families(tmp_path):
  """One test: the second run needs the first."""
  donor = tmp_path / 'autoencoder'
  programs.run('main', *AUTOENCODER, f'--workdir={donor}')
  taken = final_state(donor, STEPS).params['encoder']

  args = [
      *MEMORY, f'--config.start.workdir={donor}', '--config.frozen=^encoder/'
  ]
  workdir = tmp_path / 'memory'
  done = programs.run('main', *args, f'--workdir={workdir}')
  state = final_state(workdir, STEPS)
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  trained = size(state.params) - size(taken)
  assert f'{trained:,} trained parameters' in done.stdout
  jax.tree.map(
      lambda a, b: np.testing.assert_array_equal(a, b),
      state.params['encoder'],
      taken,
  )
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['start'] == {'workdir': str(donor), 'step': STEPS}
  assert summary['frozen'] == {
      'leaves': len(jax.tree.leaves(taken)), 'sha256': digest(taken)
  }
  assert {'cross_entropy', 'blank_copy/accuracy'} <= set(
      summary['eval']['heldout']
  )
  kept = [
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
      if leaf.ndim
  ]
  assert len(kept) == 2 * (
      len(jax.tree.leaves(state.params)) - len(jax.tree.leaves(taken))
  )
  assert not any('encoder' in name for name in kept)

  # Where nothing was saved yet, it begins with the donor's parts again; stopped
  # after that, it goes on with its own.
  again = tmp_path / 'killed'
  shutil.copytree(workdir, again)
  (again / 'summary.json').unlink()
  shutil.rmtree(again / 'checkpoints' / str(STEPS))
  stop_and_resume(again, args)
  assert_same_run(workdir, again, STEPS)

  # So it does where an experiment makes the run again.
  by_folder = tmp_path / 'by_folder'
  shutil.copytree(workdir, by_folder)
  (by_folder / 'summary.json').unlink()
  shutil.rmtree(by_folder / 'checkpoints' / str(STEPS))
  programs.run('experiments.train', f'--workdir={by_folder}')
  assert_same_run(workdir, by_folder, STEPS)

  # What cannot begin so is refused, and nothing is written.
  for change, message in (
      ('--config.model.encoder.mlp_width=48',
       "the part 'encoder' must fit 'encoder' of the model, but"
       " 'blocks/mlp/down/kernel' has shape (1, 32, 16) there and"
       ' (1, 48, 16) here'),
      (f'--config.start.workdir={tmp_path}', 'holds no run'),
  ):
    never = tmp_path / 'never'
    refused = programs.run(
        'main', *args, change, f'--workdir={never}', status=2
    )
    assert message in refused.stderr.strip().splitlines()[-1]
    assert 'Traceback' not in refused.stderr
    assert not never.exists()

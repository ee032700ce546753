"""The launchers as a person starts them, against programs that stand in.

Nothing here reaches a cloud: `fakes/` holds a gcloud, an ssh and a srun that
run on this machine what they are asked to run elsewhere.
"""

import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FAKES = pathlib.Path(__file__).parent / 'fakes'
TPU = ['--name=t', '--zone=us-west4-a', '--project=p', '--poll_seconds=0.1',
       '--settle_seconds=0.3']
ODD = ["--config.data.text.paths=it's a $HOME `x`", '--x=a  b\nc', '']
ARGS = ['--config=configs/text.py:gapt', '--workdir=gs://bucket/run', *ODD]


# A shell that starts the tests in the background ignores SIGINT, and so would
# what they start.
MINDING_SIGINT = [
    sys.executable,
    '-c',
    'import os, signal, sys\n'
    'signal.signal(signal.SIGINT, signal.SIG_DFL)\n'
    'os.execvp(sys.argv[1], sys.argv[1:])',
]


class World:
  """A folder with the programs that stand in, and what they recorded."""

  def __init__(self, folder):
    self.folder = folder
    (folder / 'bin').mkdir()
    (folder / 'local').mkdir()
    for i in range(2):
      (folder / f'worker_{i}').mkdir()
    for name in ('gcloud', 'ssh', 'srun', 'nvidia-smi', 'python'):
      self.install(name, f'local/{name}')
    for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
      self.install('python', f'bin/{name}')
    self.plan(0)

  @functools.cached_property
  def repo(self):
    """A repository of one commit: what is fetched onto the machines."""
    path = self.folder / 'repo'
    (path / 'iblm_jax').mkdir(parents=True)
    (path / 'iblm_jax/main.py').write_text('')
    git = ['git', '-C', path, '-c', 'user.name=n', '-c', 'user.email=e']
    for step in ('init -q -b main', 'add .', 'commit -qm first'):
      subprocess.run([*git, *step.split()], check=True)
    return path

  def install(self, source, target):
    python = f'{sys.executable} -S'  # starts in half the time
    text = (FAKES / source).read_text()
    text = text.replace('#!/usr/bin/env python3', f'#!{python}')
    text = text.replace('REAL_PYTHON FAKE_MAIN', f'{python} {FAKES}/main')
    path = self.folder / target
    path.write_text(text)
    path.chmod(0o755)

  def plan(self, *outcomes):
    (self.folder / 'plan.json').write_text(json.dumps(outcomes))

  def environment(self, **extra):
    path = f'{self.folder}/local:{os.environ["PATH"]}'
    fixed = {'PATH': path, 'FAKE': str(self.folder)}
    return {**os.environ, **fixed, **extra}

  def start(self, command, **extra):
    return subprocess.Popen(
        [*MINDING_SIGINT, *command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=self.environment(**extra), cwd=extra.get('FROM', ROOT),
        stdin=subprocess.DEVNULL,
    )

  def run(self, command, status=0, **extra):
    process = self.start(command, **extra)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    return output

  def tpu(self, verb, *flags, args=None, status=0):
    after = [] if args is None else ['--', *args]
    program = [sys.executable, 'launch/tpu_vm.py', verb, *TPU, *flags, *after]
    return self.run(program, status)

  def launch(self, *flags, args=ARGS, status=0):
    return self.tpu(
        'launch', f'--repo={self.repo}', '--revision=main', *flags, args=args,
        status=status,
    )

  def lines(self, name):
    path = self.folder / name
    return path.read_text().splitlines() if path.exists() else []

  def calls(self):
    path = self.folder / 'calls'
    text = path.read_text() if path.exists() else ''
    return [call.split('\0')[:-1] for call in text.split('\x1e\0')[:-1]]

  def verbs(self):
    """What gcloud was asked for, without the looks in between."""
    verbs = []
    for call in self.calls():
      verb = call[3]
      if verb == 'ssh':
        verb = re.search(r'bash tpu_worker\.sh (\w+)', call[-1])[1]
      if verb not in ('describe', 'state', 'log_from'):
        verbs.append(verb)
    return verbs

  def runs(self, process=0):
    return [json.loads(line) for line in self.lines(f'runs_{process}.jsonl')]


@pytest.fixture
def world(tmp_path):
  made = World(tmp_path)
  yield made
  for pid in tmp_path.glob('worker_?/iblm/run/pid'):
    try:
      os.killpg(int(pid.read_text()), signal.SIGKILL)
    except ProcessLookupError:
      pass


def wait_for(condition):
  end = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.05)


def test_a_dry_run_prints_lines_of_shell_and_runs_nothing(world):
  output = world.launch('--dry_run', '--queued', '--delete_after')
  assert world.calls() == []
  lines = [shlex.split(line) for line in output.splitlines()]
  assert {line[0] for line in lines} == {'gcloud'}
  assert [line[3:5] for line in lines if line[4] != 'ssh'] == [
      ['queued-resources', 'describe'],
      ['queued-resources', 'create'],
      ['queued-resources', 'describe'],
      ['tpu-vm', 'scp'],
      ['queued-resources', 'describe'],
      ['queued-resources', 'delete'],
  ]


def test_a_run_from_create_to_delete(world):
  flags = [f'--repo={world.repo}', '--revision=main']
  assert 'costs money' in world.tpu('create')
  assert 'TPU VM: READY\nrun: none, none' in world.tpu('status')
  for _ in range(2):  # again is fine
    world.tpu('setup', *flags)
  output = world.tpu('run', args=ARGS)
  # The log of worker 0, once.
  assert output.count('process 0 says 0') == 1
  assert 'process 1 says' not in output
  for process in range(2):
    (run,) = world.runs(process)
    assert run['args'] == ARGS
    home = world.folder / f'worker_{process}'
    assert run['cwd'] == str(home / 'iblm/code')
    (pip, _) = (home / 'pip.log').read_text().splitlines()
    assert '.[tpu,gcs]' in pip.split()
  assert 'run: exited 0, exited 0' in world.tpu('status')
  assert 'process 1 says 0' in world.tpu('logs', '--worker=1', '--lines=1')
  assert 'nothing was deleted' in world.tpu('delete', status=1)
  world.tpu('delete', '--yes')
  assert 'TPU VM: NOT_FOUND' in world.tpu('status')


def test_code_is_copied_from_this_checkout_without_repo(world):
  # git stands in here, so that the checkout may lack a history.
  git = world.folder / 'local/git'
  git.write_text(
      '#!/bin/bash\necho "$@" >$FAKE/git\n'
      'tar -czf "${5#--output=}" -C $FAKE packed\n'
  )
  git.chmod(0o755)
  (world.folder / 'packed').touch()
  world.tpu('create')
  world.tpu('setup', '--revision=v1')
  assert world.lines('git')[0].startswith(f'-C {ROOT} archive ')
  assert world.lines('git')[0].endswith(' v1')
  for home in ('worker_0', 'worker_1'):
    assert (world.folder / home / 'iblm/code/packed').exists()


def test_an_old_python_on_the_machine_is_replaced(world):
  (world.folder / 'old_python').touch()
  world.launch()
  assert len(world.runs()) == 1
  pip = (world.folder / 'worker_0/pip.log').read_text()
  assert 'install --quiet --user uv' in pip


def test_preemption_recreates_and_resumes_with_the_same_arguments(world):
  world.plan('preempt', 'preempt', 0)
  output = world.launch('--retries=2', '--spot', '--delete_after')
  once = ['create', 'scp', 'setup', 'start']
  assert world.verbs() == [*once, 'delete', *once, 'delete', *once, 'delete']
  assert [run['args'] for run in world.runs()] == [ARGS] * 3
  assert 'PREEMPTED' in output and '2 of 2 retries left' in output
  # The log of a machine that is gone is gone; the workdir is not.
  assert 'from step 20\n' in output
  creates = [call for call in world.calls() if call[3] == 'create']
  assert creates[0] == creates[1] == creates[2] and '--spot' in creates[0]


def test_preemption_of_a_queued_tpu(world):
  world.plan('preempt', 0)
  # ACTIVE until the run is under way; taken away when it is asked for again.
  (world.folder / 'queue').write_text(
      'NOT_FOUND WAITING_FOR_RESOURCES PROVISIONING ACTIVE'
      ' SUSPENDING SUSPENDING SUSPENDED'
  )
  output = world.launch('--retries=1', '--queued')
  assert 't is WAITING_FOR_RESOURCES\n' in output
  once = ['create', 'scp', 'setup', 'start']
  assert world.verbs() == [*once, 'delete', *once]
  assert {call[2] for call in world.calls() if call[3] == 'delete'} == {
      'queued-resources'
  }


def test_retries_run_out(world):
  world.plan('preempt', 'preempt')
  output = world.launch('--retries=1', status=1)
  assert 'no retries left' in output
  assert world.verbs().count('create') == 2


def test_missing_capacity_after_a_preemption_takes_a_retry(world):
  world.plan('preempt', 0)
  (world.folder / 'no_capacity').touch()
  output = world.launch('--retries=2')
  assert 'was not created; trying again' in output
  assert world.verbs().count('create') == 3


def test_a_first_create_that_fails_is_not_repeated(world):
  output = world.launch('--retries=3', '--zone=nowhere', status=1)
  assert 't was not created' in output
  assert world.verbs() == ['create']


@pytest.mark.parametrize(
    ('outcome', 'status'), [(2, 2), (1, 1), (143, 143), (7, 1)]
)
def test_a_run_that_ends_on_a_tpu_that_stays_is_not_repeated(
    world, outcome, status
):
  world.plan(outcome, 0)
  world.launch('--retries=3', status=status)
  # Whether a worker was still to be stopped is a matter of milliseconds.
  verbs = [verb for verb in world.verbs() if verb != 'stop']
  assert verbs == ['create', 'scp', 'setup', 'start']
  assert len(world.runs()) == 1


@pytest.mark.parametrize(('outcome', 'status', 'tries'), [(1, 0, 2), (2, 2, 1)])
def test_a_failure_before_its_preemption_shows_is_repeated_but_not_a_bad_config(
    world, outcome, status, tries
):
  world.plan(f'gone {outcome}', 0)
  world.launch('--retries=3', status=status)
  assert len(world.runs()) == world.verbs().count('create') == tries


def test_a_tpu_that_was_deleted_by_hand_is_not_recreated(world):
  world.plan('preempt')
  process = world.start(
      [sys.executable, 'launch/tpu_vm.py', 'launch', *TPU, '--retries=3',
       f'--repo={world.repo}', '--revision=main', '--', *ARGS]
  )
  world.plan('hang')
  wait_for(lambda: world.runs() and world.runs(1))
  (world.folder / 'node').write_text('NOT_FOUND')
  output, _ = process.communicate(timeout=30)
  assert process.returncode == 1
  assert 'was deleted; it is not recreated' in output
  assert world.verbs().count('create') == 1


def test_when_a_worker_fails_the_others_are_stopped(world):
  world.plan(['hang', 1])
  output = world.launch(status=1)
  assert world.verbs() == ['create', 'scp', 'setup', 'start', 'stop']
  assert 'saved' in output  # worker 0 had time to save
  assert 'run: exited 143, exited 1' in world.tpu('status')


def test_a_second_run_is_refused_while_one_is_alive_and_follow_joins_it(world):
  world.plan('hang')
  world.tpu('create')
  world.tpu('setup', f'--repo={world.repo}', '--revision=main')
  program = [sys.executable, 'launch/tpu_vm.py']
  first = world.start([*program, 'run', *TPU, '--', *ARGS])
  wait_for(lambda: world.runs() and world.runs(1))
  assert 'run: alive, alive' in world.tpu('status')
  first.send_signal(signal.SIGINT)
  output, _ = first.communicate(timeout=30)
  assert first.returncode == 130 and 'goes on' in output
  assert 'a run is alive' in world.tpu('run', args=ARGS, status=1)
  again = world.tpu('setup', f'--repo={world.repo}', status=1)
  assert 'a run is alive' in again
  follower = world.start([*program, 'follow', *TPU])
  world.tpu('stop')
  output, _ = follower.communicate(timeout=30)
  assert follower.returncode == 143 and output.count('saved') == 1
  assert len(world.runs()) == 1


def test_a_run_that_was_killed_is_lost(world):
  world.plan('hang')
  world.tpu('create')
  world.tpu('setup', f'--repo={world.repo}', '--revision=main')
  process = world.start(
      [sys.executable, 'launch/tpu_vm.py', 'run', *TPU, '--', *ARGS]
  )
  wait_for(lambda: world.runs() and world.runs(1))
  for pid in world.folder.glob('worker_?/iblm/run/pid'):
    os.killpg(int(pid.read_text()), signal.SIGKILL)
  process.communicate(timeout=30)
  assert process.returncode == 1
  assert 'run: lost, lost' in world.tpu('status')


@pytest.mark.parametrize(
    ('verb', 'flags', 'args', 'says'),
    [
        ('launch', [], ['--workdir=/a'], 'must start with gs://'),
        ('run', [], ['--workdir', 'runs/a'], 'must start with gs://'),
        ('launch', ['--retries=1', '--accelerator=v4-8'], ['--workdir=/a'],
         'is lost when'),
        ('launch', [], ['--config=c'], 'no --workdir'),
        ('launch', [], None, 'after --'),
        ('create', [], ['--workdir=gs://a'], 'no arguments'),
        ('create', ['--retries=1'], None, '--retries'),
        ('create', ['--accelerator=h100-8'], None, 'accelerator'),
        ('create', ['--no_such_flag'], None, 'no_such_flag'),
        ('fly', [], None, 'one command of'),
        ('launch', ['--retries=-1'], ARGS, 'retries'),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_created(
    world, verb, flags, args, says
):
  assert says in world.tpu(verb, *flags, args=args, status=2)
  assert world.calls() == []


GPU_ARGS = ['--config=configs/text.py:gapt', '--workdir=/shared/run', *ODD]


def test_one_gpu_host(world):
  world.run(['launch/gpu_host.sh', *GPU_ARGS])
  (run,) = world.runs()
  assert run['args'] == GPU_ARGS and run['cwd'] == str(ROOT)
  assert run['env'] == {'JAX_PLATFORMS': 'cuda,cpu'}
  world.plan(0, 143)
  world.run(['launch/gpu_host.sh', *GPU_ARGS], status=143)


@pytest.mark.parametrize(
    ('extra', 'args', 'says'),
    [
        ({'GPUS': '0'}, GPU_ARGS, 'lists no GPU'),
        ({'PYTHON': 'no such'}, GPU_ARGS, "no interpreter 'no such'"),
        ({}, [], 'no arguments'),
    ],
)
def test_a_gpu_host_that_cannot_train_says_so(world, extra, args, says):
  assert says in world.run(['launch/gpu_host.sh', *args], status=2, **extra)
  assert world.runs() == []


def hosts(world, *args, status=0, **extra):
  names = {'HOSTS': 'ann@a b', 'CODE': str(ROOT), **extra}
  return world.run(['launch/gpu_hosts.sh', *args], status, **names)


def test_several_gpu_hosts(world):
  output = hosts(world, *GPU_ARGS, PORT='99')
  for i, host in enumerate(['ann@a', 'b']):
    (run,) = world.runs(i)
    assert run['env']['HOST'] == host
    assert run['args'] == [
        *GPU_ARGS, '--coordinator_address=a:99', '--num_processes=2',
        f'--process_id={i}',
    ]
    assert f'[{host}] process {i} says 0\n' in output


@pytest.mark.parametrize(('first', 'status'), [(1, 1), (2, 2), (143, 143)])
def test_when_a_gpu_host_ends_badly_the_rest_is_stopped(world, first, status):
  world.plan([first, 'hang'])
  start = time.monotonic()
  output = hosts(world, *GPU_ARGS, status=status)
  assert '[b] saved' in output and 'b ended with 143' in output
  assert time.monotonic() - start < 15


def test_a_host_that_cannot_be_reached_stops_the_rest(world):
  world.plan('hang')
  output = hosts(world, *GPU_ARGS, status=1, HOSTS='a unreachable')
  assert 'unreachable ended with 255' in output


def test_gpu_hosts_can_be_stopped(world):
  world.plan('hang')
  process = world.start(
      ['launch/gpu_hosts.sh', *GPU_ARGS], HOSTS='a b', CODE=str(ROOT)
  )
  wait_for(lambda: world.runs() and world.runs(1))
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=20)
  assert process.returncode == 143 and output.count('saved') == 2


def test_a_host_whose_connection_breaks_stops_its_run(world):
  world.plan('hang')
  process = world.start(
      ['launch/gpu_hosts.sh', *GPU_ARGS], HOSTS='a', CODE=str(ROOT)
  )
  wait_for(world.runs)
  process.kill()
  # Without a parent, the input of the host ends.
  output, _ = process.communicate(timeout=20)
  assert 'saved' in output


def test_no_hosts_and_no_arguments_are_refused(world):
  assert 'no hosts' in hosts(world, *GPU_ARGS, status=2, HOSTS=' ')
  assert 'no arguments' in hosts(world, status=2)


def test_a_slurm_job(world, tmp_path):
  # Slurm runs a copy from a folder of its own.
  copy = shutil.copy(ROOT / 'launch/slurm.sbatch', tmp_path / 'slurm_script')
  job = {'SLURM_SUBMIT_DIR': str(ROOT), 'SLURM_CPUS_PER_TASK': '16',
         'FROM': str(tmp_path)}
  world.run(['bash', copy, *GPU_ARGS], **job)
  assert world.lines('srun') == ['16 --kill-on-bad-exit=1']
  for rank in range(2):
    (run,) = world.runs(rank)
    assert run['args'] == GPU_ARGS and run['cwd'] == str(ROOT)
    # All GPUs of the node, where JAX alone would take the first.
    assert run['env']['JAX_LOCAL_DEVICE_IDS'] == '0,1,2'
  world.plan(0, [0, 1])
  world.run(['bash', copy, *GPU_ARGS], status=1, CUDA_VISIBLE_DEVICES='4,7',
            **job)
  assert world.runs()[1]['env']['JAX_LOCAL_DEVICE_IDS'] == '0,1'


def test_slurm_with_several_tasks_a_node_is_refused(world):
  output = world.run(
      ['bash', 'launch/slurm.sbatch', *GPU_ARGS], status=2, TASKS='16',
      SLURM_SUBMIT_DIR=str(ROOT),
  )
  assert '--ntasks-per-node=1' in output
  assert world.runs() == []


def test_every_launcher_ends_in_the_same_program():
  launch = ROOT / 'launch'
  program = r'^ *(exec )?"\S+" -m iblm_jax\.main "\$@"( &)?$'
  for name in ('tpu_worker.sh', 'gpu_host.sh'):
    assert len(re.findall(program, (launch / name).read_text(), re.M)) == 1
  for name in ('gpu_hosts.sh', 'slurm.sbatch'):
    text = (launch / name).read_text()
    assert 'bash launch/gpu_host.sh "$@"' in text


@pytest.mark.parametrize(
    'script', sorted(p.name for p in (ROOT / 'launch').glob('*.s[hb]*'))
)
def test_scripts_are_bash_that_stops_at_errors(script):
  path = ROOT / 'launch' / script
  subprocess.run(['bash', '-n', path], check=True)
  assert 'set -euo pipefail\n' in path.read_text()

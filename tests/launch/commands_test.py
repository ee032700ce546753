"""Command lines of a TPU VM, word by word."""

import doctest
import pathlib
import shlex
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from launch import commands, outcomes, session  # noqa: E402

PLACE = ['--zone=us-west4-a', '--project=p-1']
ODD = [
    'a b', '', '  two  blanks ', "it's", '"quoted"', '$HOME', '`id`', '$(id)',
    'a;b', 'a&&b', '*', '~', '\\', '\\n', 'a\nb', 'tab\there', '--x={"a": [1]}',
    'é', '!x', '#', '-', '--', "\\'", '\x7f\x01', "'\n'",
]


def spec(**fields):
  return commands.TpuSpec('t', 'us-west4-a', 'p-1', **fields)


def words(text):
  return text.split()


def test_the_examples_run():
  for module in (commands, outcomes, session):
    assert doctest.testmod(module).failed == 0


def test_create():
  assert commands.create_command(spec(accelerator='v4-8')) == [
      *words('gcloud compute tpus tpu-vm create t'), *PLACE,
      '--accelerator-type=v4-8', '--version=tpu-ubuntu2204-base',
  ]


def test_create_a_spot_tpu_in_the_queue_with_more_flags():
  wanted = spec(
      accelerator='v6e-16', version='mine', spot=True, queued=True,
      create_flags=('--network=a b', '--internal-ips'),
  )
  assert commands.create_command(wanted) == [
      *words('gcloud compute tpus queued-resources create t --node-id=t'),
      *PLACE, '--accelerator-type=v6e-16', '--runtime-version=mine', '--spot',
      '--network=a b', '--internal-ips',
  ]


@pytest.mark.parametrize(
    ('accelerator', 'version', 'single_host'),
    [
        ('v2-8', 'tpu-ubuntu2204-base', True),
        ('v3-32', 'tpu-ubuntu2204-base', False),
        ('v4-16', 'tpu-ubuntu2204-base', False),
        ('v5litepod-1', 'v2-alpha-tpuv5-lite', True),
        ('v5litepod-8', 'v2-alpha-tpuv5-lite', True),
        ('v5litepod-16', 'v2-alpha-tpuv5-lite', False),
        ('v5p-8', 'v2-alpha-tpuv5', True),
        ('v6e-256', 'v2-alpha-tpuv6e', False),
    ],
)
def test_runtime_and_hosts_of_an_accelerator(accelerator, version, single_host):
  of_type = spec(accelerator=accelerator)
  assert (of_type.version, of_type.single_host) == (version, single_host)


def test_describe_delete_and_copy():
  tpu_vm = words('gcloud compute tpus tpu-vm')
  queued = words('gcloud compute tpus queued-resources')
  assert commands.describe_command(spec()) == [
      *tpu_vm, 'describe', 't', *PLACE, '--format=value(state)'
  ]
  assert commands.describe_queued_command(spec()) == [
      *queued, 'describe', 't', *PLACE, '--format=value(state.state)'
  ]
  assert commands.delete_command(spec()) == [
      *tpu_vm, 'delete', 't', *PLACE, '--quiet'
  ]
  assert commands.delete_command(spec(queued=True)) == [
      *queued, 'delete', 't', *PLACE, '--force', '--quiet'
  ]
  assert commands.scp_command(spec(), ['a b', 'c']) == [
      *tpu_vm, 'scp', 'a b', 'c', 't:', *PLACE, '--worker=all'
  ]


def test_ssh():
  assert commands.ssh_command(spec(), 'ls "a b"', worker='3') == [
      *words('gcloud compute tpus tpu-vm ssh t'), *PLACE, '--worker=3',
      '--ssh-flag=-oConnectTimeout=20', '--ssh-flag=-oServerAliveInterval=15',
      '--command=ls "a b"',
  ]


@pytest.mark.parametrize(
    ('fields', 'named'),
    [
        ({'accelerator': 'v5e-16'}, 'accelerator'),
        ({'accelerator': 'v4'}, 'accelerator'),
        ({'accelerator': 'v4-08'}, 'accelerator'),
        ({'name': 'My-TPU'}, 'name'),
        ({'name': '--quiet'}, 'name'),
        ({'name': 'a' * 64}, 'name'),
        ({'zone': ''}, 'zone'),
        ({'project': 'a b'}, 'project'),
    ],
)
def test_a_bad_field_is_refused_by_name(fields, named):
  given_fields = {'name': 't', 'zone': 'z', 'project': 'p', **fields}
  with pytest.raises(ValueError, match=f'^{named} is'):
    commands.TpuSpec(**given_fields)


def through_bash(line):
  """What a program gets whose arguments `line` gives to bash."""
  script = f"printf '%s\\0' {line}"
  done = subprocess.run(['bash', '-c', script], capture_output=True, check=True)
  return done.stdout.decode().split('\0')[:-1]


def test_odd_arguments_survive_two_shells_on_one_line():
  remote = commands.worker_command('start', *ODD)
  local = shlex.join(commands.ssh_command(spec(), remote))
  assert '\n' not in local
  command = through_bash(local)[-1].removeprefix('--command=')
  assert command == remote == ' '.join(command.split(' '))
  assert through_bash(command) == ['bash', 'tpu_worker.sh', 'start', *ODD]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.text(
            st.characters(exclude_characters='\0', exclude_categories=['Cs'])
        ),
        min_size=1,
    )
)
def test_any_arguments_survive_bash(args):
  assert through_bash(' '.join(map(commands.quote, args))) == args


def test_a_nul_is_refused():
  with pytest.raises(ValueError, match='NUL'):
    commands.quote('a\0')


def test_states_are_found_between_other_lines():
  text = (
      'SSH: connecting\niblm-state: alive\r\niblm-state: exited 2\nnoise '
      'iblm-state: alive\niblm-state: lost\niblm-state: none\n'
  )
  assert outcomes.parse_states(text) == ['alive', 'exited 2', 'lost', 'none']


@pytest.mark.parametrize(
    ('states', 'status'),
    [
        ([], None),
        (['exited 0', 'alive', 'exited 1'], None),
        (['exited 0', 'exited 0'], 0),
        (['exited 0', 'exited 143'], 143),
        (['exited 143', 'exited 134'], 1),
        (['exited 143', 'lost'], 1),
        (['exited 0', 'none'], 1),
        (['exited 1', 'exited 2'], 2),
    ],
)
def test_the_status_of_a_run(states, status):
  assert outcomes.run_status(states) == status


@pytest.mark.parametrize(
    ('args', 'workdir'),
    [
        (['--workdir=gs://b/r'], 'gs://b/r'),
        (['-workdir=a=b'], 'a=b'),
        (['--workdir', '/x', '--config=c'], '/x'),
        (['--workdir=1', '--workdir=2'], '2'),
        (['--config.workdir=1'], None),
        (['--workdir'], ''),
    ],
)
def test_the_workdir_among_the_arguments(args, workdir):
  assert outcomes.workdir_of(args) == workdir


def test_a_local_workdir_is_for_one_host_that_stays():
  one, many = spec(accelerator='v4-8'), spec(accelerator='v4-16')
  outcomes.check_workdir(one, ['--workdir=/a'])
  outcomes.check_workdir(many, ['--workdir=gs://b/a'], outlives=True)
  with pytest.raises(ValueError, match='local disk of each'):
    outcomes.check_workdir(many, ['--workdir=/a'])
  with pytest.raises(ValueError, match='lost when the TPU VM is deleted'):
    outcomes.check_workdir(one, ['--workdir=/a'], outlives=True)
  with pytest.raises(ValueError, match='no --workdir'):
    outcomes.check_workdir(one, ['--config=c'])


def test_the_archive_holds_the_committed_files(tmp_path):
  git = ['git', '-C', str(tmp_path), '-c', 'user.name=n', '-c', 'user.email=e']
  (tmp_path / 'kept').write_text('committed')
  for step in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'm']):
    subprocess.run([*git, *step], check=True)
  (tmp_path / 'new').write_text('not committed')
  packed = tmp_path / 'code.tar.gz'
  subprocess.run(
      commands.archive_command(str(tmp_path), 'HEAD', str(packed)), check=True
  )
  names = subprocess.run(
      ['tar', '-tzf', str(packed)], capture_output=True, text=True, check=True
  )
  assert names.stdout.split() == ['kept']

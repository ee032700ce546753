"""Builds the command lines of a TPU VM, as pure functions.

The command groups are `gcloud compute tpus tpu-vm` and `gcloud compute tpus
queued-resources`, as their public reference pages describe them
(https://docs.cloud.google.com/sdk/gcloud/reference/compute/tpus).
"""

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Sequence

WORKER_SCRIPT = pathlib.Path(__file__).parent / 'tpu_worker.sh'
ARCHIVE = 'iblm_code.tar.gz'

# Per family: https://docs.cloud.google.com/tpu/docs/runtimes
_RUNTIMES = {
    'v2': 'tpu-ubuntu2204-base',
    'v3': 'tpu-ubuntu2204-base',
    'v4': 'tpu-ubuntu2204-base',
    'v5litepod': 'v2-alpha-tpuv5-lite',
    'v5p': 'v2-alpha-tpuv5',
    'v6e': 'v2-alpha-tpuv6e',
}
# The number in a type counts chips or cores, by family; in every family that
# _RUNTIMES knows, the largest slice of one host is called -8.
_LARGEST_SINGLE_HOST = 8
_TPU_VM = ['gcloud', 'compute', 'tpus', 'tpu-vm']
_QUEUED = ['gcloud', 'compute', 'tpus', 'queued-resources']


@dataclasses.dataclass(frozen=True)
class TpuSpec:
  """Names a TPU VM and says how to create it.

  Attributes:
    name: of the node, and of its queued resource; lower-case letters, digits
      and hyphens, a letter first, at most 63.
    zone: such as us-west4-a.
    project: Google Cloud project that pays.
    accelerator: type and size, such as v5litepod-16.
    version: runtime of the machines; empty takes the family's.
    spot: cheaper, and may be taken away at any time.
    queued: wait in the queue for capacity (queued-resources).
    create_flags: more flags of gcloud's `create`, as they are.

  Raises:
    ValueError: if a field is not of that form.

  Example:
    >>> spec = TpuSpec('t', 'us-west4-a', 'p', accelerator='v6e-8')
    >>> spec.version, spec.single_host
    ('v2-alpha-tpuv6e', True)
  """

  name: str
  zone: str
  project: str
  accelerator: str = 'v5litepod-16'
  version: str = ''
  spot: bool = False
  queued: bool = False
  create_flags: tuple[str, ...] = ()

  def __post_init__(self):
    if not re.fullmatch(r'[a-z]([-a-z0-9]{0,61}[a-z0-9])?', self.name):
      raise ValueError(
          f'name is {self.name!r}; it must be lower-case letters, digits and'
          ' hyphens, a letter first and no hyphen last, at most 63.'
      )
    for field in ('zone', 'project'):
      value = getattr(self, field)
      if not re.fullmatch(r'[a-z0-9][-a-z0-9.:]*', value):
        raise ValueError(
            f'{field} is {value!r}; it must be a name such as us-west4-a, of'
            ' lower-case letters, digits and hyphens.'
        )
    family, _, size = self.accelerator.partition('-')
    if not (re.fullmatch('[1-9][0-9]*', size) and family in _RUNTIMES):
      raise ValueError(
          f'accelerator is {self.accelerator!r}; it must be FAMILY-SIZE with'
          f' FAMILY one of {sorted(_RUNTIMES)}, such as v5litepod-16.'
      )
    if not self.version:
      object.__setattr__(self, 'version', _RUNTIMES[family])

  @property
  def single_host(self) -> bool:
    """Tells whether one machine has all chips."""
    return int(self.accelerator.split('-')[1]) <= _LARGEST_SINGLE_HOST


def create_command(spec: TpuSpec) -> list[str]:
  """Creates the TPU VM, or asks for it in the queue.

  `tpu-vm create` returns when the TPU is there; `queued-resources create`
  returns when the request is in the queue.
  """
  if spec.queued:
    command = [*_QUEUED, 'create', spec.name, f'--node-id={spec.name}']
    runtime = f'--runtime-version={spec.version}'
  else:
    command = [*_TPU_VM, 'create', spec.name]
    runtime = f'--version={spec.version}'
  return [
      *command,
      *_place(spec),
      f'--accelerator-type={spec.accelerator}',
      runtime,
      *(['--spot'] if spec.spot else []),
      *spec.create_flags,
  ]


def describe_command(spec: TpuSpec) -> list[str]:
  """Prints the state of the node, such as READY or PREEMPTED."""
  return [
      *_TPU_VM, 'describe', spec.name, *_place(spec), '--format=value(state)'
  ]


def describe_queued_command(spec: TpuSpec) -> list[str]:
  """Prints the state of the request, such as ACTIVE or SUSPENDED."""
  return [
      *_QUEUED, 'describe', spec.name, *_place(spec),
      '--format=value(state.state)',
  ]


def delete_command(spec: TpuSpec) -> list[str]:
  """Deletes the TPU VM without asking; a queued one with its request."""
  if spec.queued:
    return [
        *_QUEUED, 'delete', spec.name, *_place(spec), '--force', '--quiet'
    ]
  return [*_TPU_VM, 'delete', spec.name, *_place(spec), '--quiet']


def ssh_command(
    spec: TpuSpec, command: str, *, worker: str = 'all'
) -> list[str]:
  """Runs a shell command on the workers of a TPU VM.

  Args:
    command: A command line for the login shell of the workers, which is bash.
    worker: Number of a worker, or 'all'. gcloud fails if the command fails on
      any worker.
  """
  return [
      *_TPU_VM, 'ssh', spec.name, *_place(spec), f'--worker={worker}',
      # A machine that was taken away must not hold the connection open.
      '--ssh-flag=-oConnectTimeout=20', '--ssh-flag=-oServerAliveInterval=15',
      f'--command={command}',
  ]


def scp_command(spec: TpuSpec, files: Sequence[str]) -> list[str]:
  """Copies local files into the home folder of every worker."""
  return [
      *_TPU_VM, 'scp', *files, f'{spec.name}:', *_place(spec), '--worker=all'
  ]


def archive_command(root: str, revision: str, path: str) -> list[str]:
  """Packs a revision of the checkout at `root` into a .tar.gz file."""
  return [
      'git', '-C', root, 'archive', '--format=tar.gz', f'--output={path}',
      '--end-of-options', revision,
  ]


def worker_command(*args: str) -> str:
  """Builds the shell command line that runs tpu_worker.sh on a worker.

  Args:
    *args: The script's arguments, which arrive unchanged.

  Returns:
    One line, even if an argument contains line breaks.

  Example:
    >>> worker_command('start', '--config.data.text.paths=my book.txt')
    "bash tpu_worker.sh start '--config.data.text.paths=my book.txt'"
  """
  return ' '.join(['bash', WORKER_SCRIPT.name, *map(quote, args)])


def state_command() -> str:
  """Builds the command line that prints a worker's state, even before setup."""
  script = WORKER_SCRIPT.name
  return (
      f'if [ -e {script} ]; then {worker_command("state")};'
      " else echo 'iblm-state: none'; fi"
  )


def quote(argument: str) -> str:
  r"""Quotes one argument for bash, on one line.

  Args:
    argument: Any text without a NUL character.

  Returns:
    The result of `shlex.quote`, or bash's `$'...'` if the argument contains
    control characters.

  Raises:
    ValueError: The argument contains a NUL.

  Example:
    >>> quote('a b'), quote('a\nb')
    ("'a b'", "$'a\\x0ab'")
  """
  if '\0' in argument:
    raise ValueError(f'an argument is {argument!r}; it must be without NUL.')
  if not re.search(r'[\x01-\x1f\x7f]', argument):
    return shlex.quote(argument)
  escaped = re.sub(r"[\\']", r'\\\g<0>', argument)
  escaped = re.sub(
      r'[\x01-\x1f\x7f]', lambda match: f'\\x{ord(match[0]):02x}', escaped
  )
  return f"$'{escaped}'"


def _place(spec: TpuSpec) -> list[str]:
  return [f'--zone={spec.zone}', f'--project={spec.project}']

r"""Starts and watches training on a Cloud TPU VM, through gcloud.

  python launch/tpu_vm.py COMMAND --name=N --zone=Z --project=P [-- ARGS]

  create  creates the TPU VM; with --queued it waits in the queue
  setup   puts code and packages onto all workers; may be repeated
  run     starts python -m iblm_jax.main ARGS on all workers and follows it
  follow  follows the run that is there until it ends
  status  prints the state of the TPU VM and of the run
  logs    prints the end of a worker's log
  stop    asks the run to save and end
  delete  deletes the TPU VM
  launch  create, setup and run, and again if the TPU VM is taken away

Everything after -- is passed to iblm_jax.main unchanged. --dry_run prints the
commands and runs none.

Exit status: 0 done; 2 bad flags, or the run refused its config; 143 the run
was stopped after saving; 130 interrupted here, and the run goes on; 1 anything
else. docs/launch.md explains.
"""

import pathlib
import sys

from absl import app, flags

if __package__:  # installed as iblm_jax.launch, or imported as launch
  from . import commands, outcomes, session
  from . import shell as shell_lib
else:  # started as a file, whose folder alone is on the path
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
  from launch import commands, outcomes, session
  from launch import shell as shell_lib

FLAGS = flags.FLAGS
_COMMANDS = (
    'create', 'setup', 'run', 'follow', 'status', 'logs', 'stop', 'delete',
    'launch',
)
_TAKE_ARGS = ('run', 'launch')


def define_flags() -> None:
  """Defines the program's flags."""
  text, number = flags.DEFINE_string, flags.DEFINE_float
  text('name', None, 'Name of the TPU VM.', required=True)
  text('zone', None, 'Zone, such as us-west4-a.', required=True)
  text('project', None, 'Google Cloud project.', required=True)
  text('accelerator', 'v5litepod-16', 'Type and size of the TPU.')
  text('version', '', "Runtime of the machines; empty: the accelerator's.")
  flags.DEFINE_bool('spot', False, 'create: cheaper, may be taken away.')
  flags.DEFINE_bool('queued', False, 'The TPU VM is a queued resource.')
  flags.DEFINE_multi_string('create_flag', [], 'create: more gcloud flags.')
  text('repo', '', 'setup: git URL to fetch from; empty: this checkout.')
  text('revision', 'HEAD', 'setup: branch, tag or commit.')
  flags.DEFINE_integer(
      'retries', 0, 'launch: how often to recreate.', lower_bound=0
  )
  flags.DEFINE_bool('delete_after', False, 'launch: delete after the run.')
  text('worker', '0', 'logs: number of the worker.')
  flags.DEFINE_integer('lines', 50, 'logs: how many.', lower_bound=0)
  flags.DEFINE_bool('follow', False, 'logs: go on as the log grows.')
  flags.DEFINE_bool('yes', False, 'delete: do not ask.')
  flags.DEFINE_bool('dry_run', False, 'Print commands and run none.')
  number('poll_seconds', 30, 'Between two looks.', lower_bound=0)
  number(
      'settle_seconds', 60,
      'launch: how long after a failure the TPU is watched.', lower_bound=0,
  )


def split_args(argv: list[str]) -> tuple[list[str], list[str] | None]:
  """Separates this program's arguments from those after the first `--`."""
  if '--' not in argv:
    return argv, None
  cut = argv.index('--')
  return argv[:cut], argv[cut + 1 :]


def check(
    positional: list[str], args: list[str] | None
) -> tuple[str, commands.TpuSpec]:
  """Reads the command and its TPU VM, before anything is created.

  Raises:
    ValueError: if flags or arguments do not fit together.
  """
  if len(positional) != 1 or positional[0] not in _COMMANDS:
    raise ValueError(
        f'expected one command of {", ".join(_COMMANDS)}, got {positional}.'
    )
  command = positional[0]
  spec = commands.TpuSpec(
      name=FLAGS.name,
      zone=FLAGS.zone,
      project=FLAGS.project,
      accelerator=FLAGS.accelerator,
      version=FLAGS.version,
      spot=FLAGS.spot,
      queued=FLAGS.queued,
      create_flags=tuple(FLAGS.create_flag),
  )
  if command in _TAKE_ARGS:
    if not args:
      raise ValueError(f'{command} needs the flags of iblm_jax.main after --.')
    outlives = FLAGS.retries > 0 or FLAGS.spot or FLAGS.delete_after
    outcomes.check_workdir(spec, args, outlives=outlives)
  elif args is not None:
    raise ValueError(f'{command} takes no arguments after --, got {args}.')
  for name in ('retries', 'delete_after'):
    if FLAGS[name].value and command != 'launch':
      raise ValueError(f'--{name} is for launch, got {command}.')
  if not (FLAGS.worker == 'all' or FLAGS.worker.isdecimal()):
    raise ValueError(f"worker is {FLAGS.worker!r}; a number or 'all'.")
  return command, spec


def execute(
    command: str, spec: commands.TpuSpec, args: list[str]
) -> int:
  """Runs a command; returns the exit status."""
  shell = shell_lib.Shell(FLAGS.dry_run)
  tpu = session.Session(
      spec, shell, FLAGS.poll_seconds, FLAGS.settle_seconds
  )
  match command:
    case 'create':
      tpu.create()
      _remind(tpu)
    case 'setup':
      tpu.setup(FLAGS.repo, FLAGS.revision)
    case 'run':
      tpu.start(args)
      return tpu.follow()
    case 'follow':
      return tpu.follow()
    case 'status':
      print_status(tpu)
    case 'logs':
      tpu.logs(FLAGS.worker, FLAGS.lines, FLAGS.follow)
    case 'stop':
      tpu.stop()
    case 'delete':
      if not (FLAGS.yes or FLAGS.dry_run or agreed(spec)):
        raise shell_lib.Failed('nothing was deleted.')
      tpu.delete()
    case 'launch':
      return launch(tpu, args)
  return 0


def launch(tpu: session.Session, args: list[str]) -> int:
  """Runs to the end, and deletes the TPU VM afterwards if asked to."""
  try:
    return tpu.launch(
        args,
        retries=FLAGS.retries,
        repo=FLAGS.repo,
        revision=FLAGS.revision,
    )
  finally:
    # An interrupt here leaves the run alone, and so the machine.
    if not isinstance(sys.exception(), KeyboardInterrupt):
      if not FLAGS.delete_after:
        _remind(tpu)
      elif tpu.state() != 'NOT_FOUND':
        tpu.delete()


def print_status(tpu: session.Session) -> None:
  """Prints the TPU's state and, where it is ready, the run's."""
  state = tpu.state()
  if tpu.shell.dry_run:
    tpu.worker_states()
    return
  print(f'TPU VM: {state}')
  if state == 'READY':
    states = tpu.worker_states()
    print(f'run: {", ".join(states) or "no worker answered"}')


def agreed(spec: commands.TpuSpec) -> bool:
  """Asks for a confirmation on the terminal."""
  try:
    answer = input(f'Delete {spec.name} in {spec.zone}? [y/N] ')
  except EOFError:
    return False
  return answer.strip().lower() in ('y', 'yes')


def run() -> None:
  """Defines the flags and starts the program."""
  define_flags()
  argv, args = split_args(sys.argv)

  def main(positional):
    try:
      command, spec = check(positional[1:], args)
      status = execute(command, spec, args or [])
    except ValueError as error:
      status = _say(str(error), 2)
    except shell_lib.Failed as error:
      status = _say(str(error), 1)
    except KeyboardInterrupt:
      status = _say('interrupted; a run that was started goes on.', 130)
    sys.exit(status)

  app.run(main, argv, flags_parser=_parse)


def _parse(argv):
  try:
    return FLAGS(argv)
  except flags.Error as error:
    sys.exit(_say(str(error), 2))


def _remind(tpu: session.Session) -> None:
  if not tpu.shell.dry_run:
    shell_lib.report(f'{tpu.spec.name} costs money until it is deleted.')


def _say(message: str, status: int) -> int:
  shell_lib.report(message)
  return status


if __name__ == '__main__':
  run()

"""What all programs share: plugins and exit statuses; light to import.

The exit status is 0 for success, 1 for a run that failed, 2 for bad flags or a
bad config, and 143 (as after SIGTERM) for a run that was asked to stop and
saved its state first.
"""

import contextlib
import difflib
import importlib
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging

from iblm_jax import errors, files, foreign

_BAD_USAGE = 2
# Limits of a flag that is a seed.
SEEDS = {'lower_bound': 0, 'upper_bound': 2**63 - 1}
_PREEMPTED = 143
# Flags of absl that print and leave.
_HELP = {
    f'{dashes}{name}'
    for dashes in ('-', '--')
    for name in ('?', 'help', 'helpfull', 'helpshort', 'helpxml')
}
_PATIENCE = 3.0  # seconds for the other processes of a run


class BadUsage(Exception):
  """Says that flags, a config or an input cannot be used."""


@contextlib.contextmanager
def refusing():
  """Blames the caller's input for bad values and files inside the context."""
  try:
    yield
  except (ValueError, OSError) as error:
    if foreign.is_of_machine(error):
      raise
    raise BadUsage(str(error).strip()) from error


def run(
    main: Callable[..., None], positional: str = '', module: str | None = None
) -> None:
  """Parses flags, runs `main` and turns its errors into exit statuses.

  Args:
    main: Takes no arguments, or the list of positional ones. Flags are parsed
      when it is called.
    positional: How a usage message names the positional arguments; empty if the
      program takes none.
    module: Name of the module whose docstring --help shows; by default that of
      `main`.
  """
  flags.DEFINE_list(
      'plugin',
      [],
      'Modules to import first, which register kinds of data or families of'
      ' models; the current folder is searched too.',
  )

  def guarded(argv):
    arguments = argv[1:]
    if bool(arguments) != bool(positional):
      _leave(
          f'expected {positional or "flags only"}, got arguments {arguments}.',
          _BAD_USAGE,
      )
    if not flags.FLAGS['verbosity'].present:
      # Programs report through `report`; the libraries' log is for --verbosity.
      logging.set_verbosity(logging.ERROR)
    warnings.showwarning = _show_warning
    try:
      main(*([arguments] if positional else []))
    except BadUsage as error:
      _leave(str(error), _BAD_USAGE)
    except BrokenPipeError:  # who reads the lines has seen enough, like `head`
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      sys.exit(1)
    except (errors.RunFailed, FloatingPointError) as error:
      _leave(str(error), 1, at_once=True)
    except errors.Preempted as error:
      _leave(str(error), _PREEMPTED)
    except (Exception, KeyboardInterrupt) as error:
      explained = foreign.explain(error)
      if explained is not None:
        line, is_usage = explained
        _leave(line, _BAD_USAGE if is_usage else 1)
      if not _is_one_of_several():
        raise  # a bug: whoever reports it needs all of it
      if not isinstance(error, sys.modules['jax'].errors.JaxRuntimeError):
        traceback.print_exc()
        _exit(1)
      time.sleep(_PATIENCE)  # JAX may be about to end this process
      said = re.sub(r'(.+?: )\1+', r'\1', str(error).strip().splitlines()[0])
      _leave(
          'JAX stopped, as when another process of this run has ended, whose'
          f' own output says why: {said:.200}',
          1,
      )

  _describe(module or main.__module__)
  app.run(guarded, flags_parser=_parse)


class _FolderParser(flags.ArgumentParser):
  """Takes what `files.folder` takes, before the program does anything."""

  syntactic_help = 'a folder'

  def __init__(self, name: str):
    super().__init__()
    self.name = name

  def parse(self, argument: str) -> str:
    return str(files.folder(self.name, argument))


def DEFINE_folder(name: str, text: str) -> None:
  """Defines a flag for a folder; a file in its place is bad usage.

  Args:
    name: The flag.
    text: What --help says of it.
  """
  serializer = flags.ArgumentSerializer()
  flags.DEFINE(_FolderParser(name), name, None, text, serializer=serializer)


def refuse(message: str) -> NoReturn:
  """Ends the program as bad usage, with one line that says why."""
  _leave(message, _BAD_USAGE)


def report(line: str) -> None:
  """Prints a line at once for the person who watches."""
  print(line, flush=True)


def _describe(module):
  """Lets --help tell what a program does and takes, a script's as well."""
  sys.modules['__main__'].__doc__ = sys.modules[module].__doc__
  for name, defined in list(flags.FLAGS.flags_by_module_dict().items()):
    if name.startswith(f'{__package__}.'):
      for flag in defined:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _parse(argv):
  _import_plugins(argv)
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    # A config file's own error ends a traceback; its last line says it all.
    line = str(error).strip().splitlines()[-1]
    # Values of other flags, which a check of several flags looked at.
    line = re.sub('^flags? .*: (Flag --.* must have a value)', r'\1', line)
    if isinstance(error, flags.UnrecognizedFlagError) and '?' not in line:
      near = difflib.get_close_matches(error.flagname, flags.FLAGS)
      line += f'. Did you mean --{near[0]}?' if near else ''
    _leave(line, _BAD_USAGE)
  except (AttributeError, KeyError) as error:  # an override of no field
    _leave(f'--config: no field {error.args[0]}', _BAD_USAGE)
  except SystemExit:
    sys.exit(0 if _HELP.intersection(argv) else _BAD_USAGE)
  except Exception as error:  # a config file is code and may raise anything
    _leave(f'--config: {foreign.one_line(error)}', _BAD_USAGE)


def _import_plugins(argv):
  """Imports modules before any flag is parsed: --config may need them."""
  known = flags.FlagValues()
  flags.DEFINE_list('plugin', [], '', flag_values=known)
  known.set_gnu_getopt(True)
  known(argv, known_only=True)
  if known.plugin and os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  for name in known.plugin:
    try:
      importlib.import_module(name)
    except (Exception, SystemExit) as error:  # it is code and may do anything
      hint = ''
      if name.endswith('.py'):
        hint = ' A plugin is named as in Python: mine, of ./mine.py.'
      _leave(
          f'--plugin: cannot import {name!r}: {foreign.one_line(error)}{hint}',
          _BAD_USAGE,
      )


def _show_warning(message, category, filename, lineno, file=None, line=None):
  """What the library says of the input is one line; others name their place."""
  if category is UserWarning:
    text = f'{_program()}: {message}\n'
  else:
    text = warnings.formatwarning(message, category, filename, lineno, line)
  print(text, end='', file=file or sys.stderr, flush=True)


def _program() -> str:
  return sys.argv[0].removesuffix('/__main__.py').rsplit('/', 1)[-1]


def _leave(message: str, status: int, at_once: bool = False) -> NoReturn:
  logging.flush()
  line = ' '.join(part.strip() for part in message.splitlines())
  print(f'{_program()}: {line}', file=sys.stderr)
  _exit(status, at_once)


def _exit(status: int, at_once: bool = False) -> NoReturn:
  sys.stdout.flush()
  sys.stderr.flush()
  if status != _PREEMPTED and _is_one_of_several():
    # JAX ends when all do. Who does not end alike waits for this one in a step.
    ending = threading.Thread(
        target=sys.modules['jax'].distributed.shutdown, daemon=True
    )
    ending.start()
    ending.join(_PATIENCE)
    at_once = True
  if at_once:  # threads of a save that has failed would go on complaining
    os._exit(status)
  sys.exit(status)


def _is_one_of_several() -> bool:
  jax = sys.modules.get('jax')
  return jax is not None and jax.distributed.is_initialized()

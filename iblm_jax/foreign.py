"""What the errors of other libraries mean to who started a program; light."""

import errno
import os
import re
import sys
import traceback

from absl import flags

# Told by the machine, whatever was typed.
_MACHINE = frozenset({
    errno.EACCES, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM, errno.ENOSPC, errno.EPERM, errno.EROFS,
})
# Packages that talk to object stores.
_CLIENTS = ('aiohttp', 'gcsfs', 'google', 's3fs', 'botocore')
# Flags and fields of a config that say how much memory is taken.
_SIZES = ('batch_size', 'length', 'max_tokens', 'tokens', 'width', 'workers')
_FIELDS = ('data.batch_size', 'model.width', 'model.num_layers')


def is_of_machine(error: BaseException) -> bool:
  """Whether a disk, a limit or a right stopped it, not what was asked for.

  >>> is_of_machine(OSError(errno.ENOSPC, 'No space left on device'))
  True
  """
  return isinstance(error, OSError) and error.errno in _MACHINE


def one_line(error: BaseException) -> str:
  r"""Says in one line what an error says, and what it is where that is little.

  >>> one_line(ValueError('a\n  b')), one_line(KeyError('a'))
  ('a b', "KeyError: 'a'")
  """
  text = ' '.join(str(error).split())
  is_plain = isinstance(error, ValueError | ImportError | OSError | SyntaxError)
  return text if text and is_plain else f'{type(error).__name__}: {text}'


def explain(error: BaseException) -> tuple[str, bool] | None:
  """Explains an error that no line of ours has made; None for a bug.

  Args:
    error: It has been raised, so that it knows by whom.

  Returns:
    A line, what went wrong and what to do, and whether that is how the program
    was started.

  >>> explain(KeyError('weights')) is None
  True
  """
  text, where = one_line(error), _raised_in(error)
  if isinstance(error, ValueError) and where.endswith('iblm_jax/files.py'):
    return text, False  # a file that is not what was written
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in text:
    return f'out of memory: {_smaller()} ({text})', False
  if isinstance(error, AssertionError | RuntimeError) and _is_without_device():
    wanted = os.environ.get('JAX_PLATFORMS')
    line = (
        f'JAX_PLATFORMS={wanted!r}: JAX cannot start that here; unset it, or'
        f' install its extra{f" ({error})" if str(error) else ""}.'
    )
    return line, True
  if isinstance(error, ImportError) and re.search('/(etils|fsspec)/', where):
    given = next((a for a in sys.argv[1:] if '://' in a), 'a path')
    extra = ": pip install 'iblm-jax[gcs]'" if 'gcsfs' in text else ''
    return f'{given}: a package is missing{extra} ({text}).', True
  is_client = type(error).__module__.partition('.')[0] in _CLIENTS
  return (text, False) if isinstance(error, OSError) or is_client else None


def _is_without_device() -> bool:
  """Asks JAX again, which hides where its errors come from."""
  try:
    return 'jax' in sys.modules and not sys.modules['jax'].devices()
  except Exception:
    return True


def _raised_in(error: BaseException) -> str:
  frames = traceback.extract_tb(error.__traceback__)
  return frames[-1].filename.replace(os.sep, '/') if frames else ''


def _smaller() -> str:
  """What to make smaller, of what the program takes."""
  if 'config' in flags.FLAGS:
    return (
        'smaller ' + ', '.join(f'--config.{name}' for name in _FIELDS)
        + ', or a larger --config.train.accumulation help'
    )
  named = [f'--{name}' for name in _SIZES if name in flags.FLAGS]
  return f'smaller {" or ".join(named) or "sizes"} help'

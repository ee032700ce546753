"""Which files a path stands for, without what other programs leave there."""

import os
import stat
import warnings

from etils import epath

SUFFIXES = ('.txt', '.jsonl', '.txt.gz', '.jsonl.gz')
# What archives of a Mac bring along; all else of the kind begins with a dot.
_SIDECARS = ('__MACOSX',)


def find_files(paths: tuple[str, ...]) -> list[epath.Path]:
  """Returns the files that `paths` name; those of a folder sorted by name.

  Of a folder, hidden files and folders (copies that notebooks keep, sidecars of
  a Mac) are left out, and so is a link to a folder that it is in; a warning
  says how many. A file that is named itself is read whatever its name.

  Raises:
    ValueError: A path is missing or no file (a pipe, a device), a file has
      another suffix, or a folder holds no file with the right one.
  """
  files = []
  for name in paths:
    path = epath.Path(name)
    if path.is_dir():
      files += _files_below(path)
    elif not path.exists():
      raise ValueError(f'file {name!r} does not exist.')
    elif not name.endswith(SUFFIXES):
      raise ValueError(f'file {name!r} must end in one of {SUFFIXES}.')
    else:
      check_is_file(path)
      files.append(path)
  return files


def find_file(name: str) -> epath.Path:
  """Returns the one file that a path names; ValueError as for `find_files`."""
  path = epath.Path(name)
  if path.is_dir():
    raise ValueError(f'file {name!r} must be a regular file, got a folder.')
  return find_files((name,))[0]


def check_is_file(path: epath.PathLike) -> None:
  """Raises ValueError for a pipe or a device, which reading may wait for.

  A link to nothing is refused as well; what does not exist is left to others.
  """
  name = os.fspath(path)
  if '://' in name:
    return
  if not os.path.exists(name):
    if os.path.islink(name):
      raise ValueError(f'file {name!r} is a link to nothing.')
    return
  mode = os.stat(name).st_mode
  if not stat.S_ISREG(mode):
    what = 'a pipe' if stat.S_ISFIFO(mode) else 'a device, socket or folder'
    raise ValueError(f'file {name!r} must be a regular file, got {what}.')


def is_hidden(name: str) -> bool:
  """Returns whether a name is one that no program means as data.

  >>> is_hidden('._a.txt'), is_hidden('.ipynb_checkpoints'), is_hidden('a.txt')
  (True, True, False)
  """
  return name.startswith('.') or name in _SIDECARS


def _files_below(folder: epath.Path) -> list[epath.Path]:
  """Files with a right suffix in a folder and its subfolders, sorted."""
  files, hidden, loops = [], 0, 0
  # Not rglob, which epath refuses because of its cost on remote storage.
  left = [(folder, (_identity(folder),))]
  while left:
    path, above = left.pop()
    if path != folder and is_hidden(path.name):
      # Files of other kinds are not counted, whatever they are called.
      hidden += path.name.endswith(SUFFIXES) or path.is_dir()
    elif path.is_dir():
      if path != folder:
        if (identity := _identity(path)) in above:
          loops += 1
          continue
        above = (*above, identity)
      inside = sorted(path.iterdir(), key=lambda path: path.name)
      left += [(one, above) for one in reversed(inside)]
    elif path.name.endswith(SUFFIXES):
      check_is_file(path)
      files.append(path)
  name = os.fspath(folder)
  left_out = f'{hidden} hidden files or folders' if hidden else ''
  if loops:
    left_out += ' and ' if hidden else ''
    left_out += f'{loops} links to a folder that they are in'
  if not files:
    but = f', found {left_out}' if left_out else ''
    raise ValueError(
        f'folder {name!r} must hold a file that ends in one of {SUFFIXES}{but}.'
    )
  if left_out:
    warnings.warn(f'folder {name!r}: {left_out} left out.', stacklevel=3)
  return files


def _identity(path: epath.Path) -> object:
  """Equal for two paths of one folder; remote storage has no links."""
  name = os.fspath(path)
  if '://' in name:
    return name
  found = os.stat(name)
  return found.st_dev, found.st_ino

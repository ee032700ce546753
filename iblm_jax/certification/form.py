"""The form of certificate.json: groups, fields that are read, and their types.

What else stands in a certificate is compared with what is found anew, field by
field, or refused here.
"""

from collections.abc import Mapping
from typing import Any

_NUMBER = (int, float)
# In this order: the first thing that is missing is named.
_READ: dict[tuple[str, ...], Any] = {
    ('hashes',): dict,
    ('hashes', 'code'): str,
    ('hashes', 'losses'): str,
    ('hashes', 'decoded'): str,
    ('hashes', 'data'): str,
    ('hashes', 'parts'): dict,
    ('claims',): list,
    ('terms',): dict,
    ('heldout',): dict,
    ('population',): dict,
    ('population', 'm'): int,
    ('population', 'n'): int,
    ('population', 'V'): int,
    ('population', 'unit'): str,
    ('population', 'average'): str,
    ('population', 'sampling'): str,
    ('population', 'size'): (int, type(None)),
    ('population', 'files'): dict,
    ('code',): dict,
    ('code', 'numbers'): int,
    ('code', 'levels'): int,
    ('code', 'payload'): _NUMBER,
    ('code', 'total'): _NUMBER,
    ('code', 'bits_per_number'): _NUMBER,
    ('model',): dict,
    ('model', 'certificate'): dict,
    ('model', 'certificate', 'headline'): str,
    ('made',): dict,
    ('made', 'seconds'): _NUMBER,
    ('made', 'versions'): dict,
}
_CLAIM = {
    'loss': str, 'kind': str, 'value': _NUMBER, 'empirical': _NUMBER,
    'trivial': _NUMBER, 'delta': (*_NUMBER, type(None)),
}
_HASHED = {path[0] for path in _READ} - {'hashes'}
# Nothing of it can be found again, so nothing else may stand there.
_MADE = {
    'seconds': _NUMBER, 'versions': dict, 'device': str,
    'heldout_before_quantisation': _NUMBER,
}


def check(tree: Any, name: str) -> None:
  """Checks that what is read of a certificate is there and of its type.

  Args:
    tree: The content of certificate.json.
    name: What a message calls the certificate.

  Raises:
    ValueError: The first thing that is not; or `made` or `hashes.parts` hold
      something of which nothing here knows.
  """
  try:
    for path, kind in _READ.items():
      _check_type(_at(tree, path), kind, '.'.join(path))
    for field, value in tree['made'].items():
      if field not in _MADE:
        raise TypeError(f'made.{field} is not a field')
      _check_type(value, _MADE[field], f'made.{field}')
    for number, claim in enumerate(tree['claims']):
      for field, kind in _CLAIM.items():
        path = f'claims.{number}.{field}'
        _check_type(_at(claim, (field,)), kind, path)
      if 'unseen' in claim:
        _check_type(claim['unseen'], _NUMBER, f'claims.{number}.unseen')
    best = tree['population'].get('unigram', 0)
    _check_type(best, _NUMBER, 'population.unigram')
    for field, risk in tree['heldout'].items():
      _check_type(risk, _NUMBER, f'heldout.{field}')
    texts = {
        'made.versions': tree['made']['versions'],
        'population.files': tree['population']['files'],
        'hashes.parts': tree['hashes']['parts'],
    }
    for path, group in texts.items():
      for field, value in group.items():
        _check_type(value, str, f'{path}.{field}')
    if texts['hashes.parts'].keys() != _HASHED:
      raise TypeError(f'hashes.parts must name {sorted(_HASHED)}')
  except (KeyError, TypeError) as error:
    raise ValueError(f'{name} holds no certificate: {error!r}.') from error


def _at(tree: Any, path: tuple[str, ...]) -> Any:
  for name in path:
    if not isinstance(tree, Mapping):
      raise TypeError(f'{name} has no place in {type(tree).__name__}')
    tree = tree[name]
  return tree


def _check_type(value: Any, kind: Any, path: str) -> None:
  if not isinstance(value, kind) or isinstance(value, bool):
    raise TypeError(f'{path} is of type {type(value).__name__}')

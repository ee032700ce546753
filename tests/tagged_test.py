"""Fields that hold one of several dataclasses, in trees and back."""

import dataclasses
from typing import Any

import pytest

from iblm_jax import config, tagged


@dataclasses.dataclass(frozen=True)
class Circle:
  radius: float = 1.0


@dataclasses.dataclass(frozen=True)
class Square:
  side: float
  shape: str = 'square'


CLASSES = {'circle': Circle, 'square': Square}
INSIDE = tagged.Union('shape', lambda: CLASSES, default='circle')
BESIDE = tagged.Union(
    'kind', lambda: CLASSES, is_grouped=True, written=lambda: {'circle': None}
)


@dataclasses.dataclass(frozen=True)
class Drawing:
  inside: Any = tagged.field(INSIDE)
  maybe: Any = tagged.field(INSIDE, default=None)


@dataclasses.dataclass(frozen=True)
class Page:
  number: int = 1
  kind: str = 'circle'
  options: Any = tagged.field(BESIDE, default=None)
  last: bool = False


def there_and_back(cls, tree):
  made = config.build(cls, tree, 'c')
  written = config.to_dict(made)
  assert config.build(cls, written, 'c') == made
  return made, written


def test_a_tag_among_the_fields():
  made, written = there_and_back(Drawing, {'inside': {'radius': 2}})
  assert made == Drawing(Circle(2.0))
  assert written == {'inside': {'radius': 2.0}, 'maybe': None}
  made, written = there_and_back(
      Drawing, {'inside': {'shape': 'square', 'side': 3}, 'maybe': {}}
  )
  assert made == Drawing(Square(3.0), Circle())
  assert written['inside'] == {'side': 3.0, 'shape': 'square'}
  # The default class has no such field, and may be named all the same.
  assert there_and_back(Drawing, {'inside': {'shape': 'circle'}})[0] == (
      Drawing(Circle())
  )


def test_a_tag_is_written_where_the_class_has_no_field_of_it(monkeypatch):
  monkeypatch.setitem(CLASSES, 'page', Page)
  made, written = there_and_back(Drawing, {'inside': {'shape': 'page'}})
  assert made.inside == Page()
  assert list(written['inside'])[0] == 'shape'


def test_a_tag_beside_groups():
  made, written = there_and_back(
      Page, {'kind': 'square', 'square': {'side': 3}, 'last': True}
  )
  assert made == Page(1, 'square', Square(3.0), True)
  assert list(written) == ['number', 'kind', 'circle', 'square', 'last']
  assert written['circle'] is None
  # What is not chosen is checked and left out; the tag has a default.
  made, _ = there_and_back(Page, {'circle': {}, 'square': {'side': 1}})
  assert made == Page(options=Circle())
  assert config.to_dict(Page()) == {
      'number': 1, 'kind': 'circle', 'circle': None, 'last': False
  }


@pytest.mark.parametrize(
    'cls, tree, message',
    [
        (Drawing, {'inside': 3}, 'c.inside must be a group of fields, got 3'),
        (
            Drawing,
            {'inside': {'shape': 'line'}},
            r"c.inside.shape must be one of \('circle', 'square'\), got 'line'",
        ),
        (Drawing, {'inside': {'shape': ['a']}}, r"shape must .* got \['a'\]"),
        (Drawing, {'inside': {'side': 3}}, 'c.inside.side is not a field'),
        (Drawing, {}, 'c.inside must be given'),
        (Page, {'circle': {'radius': 'x'}}, 'c.circle.radius must be of type'),
        (Page, {'square': {'radius': 1}}, 'c.square.radius is not a field'),
        (Page, {'options': {}}, 'c.options is not a field; .*circle, square'),
        (Page, {'kind': 3}, 'c.kind must be of type str'),
    ],
)
def test_bad_trees_are_refused(cls, tree, message):
  with pytest.raises(ValueError, match=message):
    config.build(cls, tree, 'c')

"""The range of a field is checked where it stands."""

import dataclasses
import math
from typing import Literal

import numpy as np
import pytest

from iblm_jax import fields


@dataclasses.dataclass(frozen=True)
class Options:
  steps: int = fields.field(1, low=1)
  devices: int = fields.field(-1, low=1, also=(-1,))
  rate: float = fields.field(0.1, above=0)
  order: float = fields.field(2.0, low=0, finite=False)
  share: float = fields.field(0.5, above=0, below=1)
  name: str = fields.field('adamw', choices=('adamw', 'muon'))
  levels: tuple[int, ...] = fields.field((2,), low=2, distinct=True, least=1)
  dims: tuple[tuple[int, int], ...] = fields.field((), distinct=True)
  trace: int | None = fields.field(None, low=0)
  kind: Literal['a', 'b'] = 'a'
  log: bool = False
  free: float = 0.0

  def __post_init__(self):
    fields.check(self)


@pytest.mark.parametrize(
    'given',
    [
        dict(steps=np.int64(3)), dict(devices=8), dict(rate=1),
        dict(rate=np.float32(2)), dict(order=math.inf), dict(levels=(2, 5)),
        dict(levels=[2, 5]), dict(dims=((2, 2), (2, 3))), dict(trace=0),
        dict(kind='b'), dict(free=-math.inf), dict(name='muon'),
    ],
)
def test_what_is_allowed(given):
  made = Options(**given)
  assert {name: getattr(made, name) for name in given} == given


@pytest.mark.parametrize(
    'given, message',
    [
        (dict(steps=0), 'steps must be >= 1, got 0.'),
        (dict(steps=1.5), 'steps must be of type int, got 1.5.'),
        (dict(steps=True), 'steps must be of type int, got True.'),
        (dict(devices=0), 'devices must be >= 1, or -1, got 0.'),
        (dict(rate=0.0), 'rate must be finite and > 0, got 0.0.'),
        (dict(rate=math.inf), 'rate must be finite and > 0, got inf.'),
        (dict(rate=math.nan), 'rate must be finite and > 0, got nan.'),
        (dict(order=math.nan), 'order must be >= 0, got nan.'),
        (dict(share=1), 'share must be strictly between 0 and 1, got 1.'),
        (dict(name='sgd'),
         "name must be one of ('adamw', 'muon'), got 'sgd'."),
        (dict(levels=()),
         'levels must be distinct, at least 1, each >= 2, got ().'),
        (dict(levels=(2, 2)),
         'levels must be distinct, at least 1, each >= 2, got (2, 2).'),
        (dict(levels=(3, 1)),
         'levels must be distinct, at least 1, each >= 2, got (3, 1).'),
        (dict(levels=('a',)),
         "levels must be of type tuple of int, got ('a',)."),
        (dict(dims=((2, 2), (2, 2))),
         'dims must be distinct, got ((2, 2), (2, 2)).'),
        (dict(trace=-1), 'trace must be >= 0, got -1.'),
        (dict(trace='x'), "trace must be of type int or None, got 'x'."),
        (dict(kind='c'), "kind must be of type 'a' or 'b', got 'c'."),
        (dict(log=1), 'log must be of type bool, got 1.'),
        (dict(free=math.nan), 'free must be a number, got nan.'),
    ],
)
def test_what_is_refused(given, message):
  with pytest.raises(ValueError) as raised:
    Options(**given)
  assert str(raised.value) == message

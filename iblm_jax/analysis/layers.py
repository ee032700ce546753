"""Statistics of every layer by prompt and over a data set, in one pass."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.information import entropy, geometry, gram, streaming, summary

Arrays = dict[str, np.ndarray]

# Spectra over a data set: rows of an accumulator, whether their mean is
# subtracted, and what names end in.
_SPECTRA = (
    ('tokens', False, ''),
    ('tokens', True, '_centered'),
    ('unit_tokens', False, '_normalized'),
    ('prompts', False, '_of_prompts'),
    ('prompts', True, '_of_prompts_centered'),
)
FEWEST = 3  # tokens of a prompt; fewer have no angle


class Moments(NamedTuple):
  """Second moments of N layers, each accumulator with a leading axis N."""

  scale: jax.Array  # [N] powers of two that rows are multiplied by
  tokens: streaming.SpectrumAccumulator
  unit_tokens: streaming.SpectrumAccumulator
  prompts: streaming.SpectrumAccumulator  # mean states of prompts


class LayerStatistics(NamedTuple):
  """What `layer_statistics` finds.

  Attributes:
    prompts: By name, float32 [N, P]: a value of each layer and prompt.
    data: By name, float32 [N]: a value of each layer over the data set.
    tokens: Number of tokens that counted.
  """

  prompts: Arrays
  data: Arrays
  tokens: int


def layer_statistics(
    batches: Iterable[Mapping[str, Any]], *, sample: int = 1024, seed: int = 0
) -> LayerStatistics:
  """Measures the states of every layer, a batch at a time.

  Nothing grows with the data but the numbers of each prompt: the data set is
  seen through D x D moments, which are exact, and a sample of its tokens for
  the intrinsic dimension.

  Args:
    batches: Each maps 'hidden' to floating [N, B, L, D], the states of N layers
      (from `models.apply`, or those that `models.capture` gives, stacked),
      and, if wanted, 'mask' to bool [B, L], tokens that count, and
      'segment_ids' to int [B, L], the document of each token. A row is a
      prompt; of a row that documents share it is the one with the most tokens.
    sample: Number of tokens whose intrinsic dimension is estimated; at random.
    seed: Of the sample.

  Returns:
    `LayerStatistics` of the prompts with at least three tokens. 'prompts' holds
    all of `entropy_summary`, 'mean_cosine', 'curvature', and
    'intrinsic_dimension'. 'data' holds the same of all tokens, except for the
    curvature and rows that are centred and scaled; names that end in
    '_of_prompts' and '_of_prompts_centered' are of the mean states of prompts.

  Raises:
    ValueError: There is no prompt, or a shape does not fit.

  Example:
    >>> hidden = jax.random.normal(jax.random.key(0), [2, 4, 8, 32])
    >>> found = layer_statistics([{'hidden': hidden}, {'hidden': hidden}])
    >>> found.prompts['curvature'].shape, found.data['effective_rank'].shape
    ((2, 8), (2,))

  References:
    arXiv 2502.02013.
  """
  prompts, valid, moments = [], [], None
  reservoir = _Reservoir(sample, seed)
  for batch in batches:
    hidden, mask, keep = _checked(batch)
    found = _of_prompts(hidden, keep)
    if moments is None:
      moments = _first_moments(hidden, mask)
    is_prompt = jnp.sum(keep, axis=-1) >= FEWEST
    moments = _add(moments, hidden, mask, found.pop('mean'), is_prompt)
    reservoir.add(hidden, mask)
    prompts.append(jax.device_get(found))
    valid.append(np.asarray(is_prompt))
  if moments is None or not np.concatenate(valid).any():
    raise ValueError(
        f'batches must hold a prompt of at least {FEWEST} tokens, got none.'
    )
  kept = np.concatenate(valid)
  of_prompts = {
      name: np.concatenate([found[name] for found in prompts], axis=1)[:, kept]
      for name in prompts[0]
  }
  data = _of_moments(moments)
  data['intrinsic_dimension'] = np.asarray(_dimensions(*reservoir.rows()))
  tokens = int(moments.tokens.count[0])
  return LayerStatistics(of_prompts, data, tokens)


def prompt_rows(
    mask_BxL: jax.Array, segment_ids_BxL: Any | None
) -> jax.Array:
  """Marks the tokens [B, L] of each row's best represented document."""
  rows = jax.ShapeDtypeStruct((*mask_BxL.shape, 1), jnp.float32)
  if mask_BxL.shape[1] < 2:
    return mask_BxL
  keep_Bx1xL = entropy.rows_that_count(
      rows, mask_BxL.shape[1], mask_BxL, segment_ids_BxL
  )
  assert keep_Bx1xL is not None  # there is a mask
  return keep_Bx1xL[:, 0]


def mean_states(hidden_NxBxLxD: jax.Array, keep_BxL: jax.Array) -> jax.Array:
  """Returns the mean state [N, B, D] of the tokens that count, float32."""
  x = hidden_NxBxLxD.astype(jnp.float32)
  x = jnp.where(keep_BxL[None, ..., None], x, 0.0)
  count_B = jnp.maximum(jnp.sum(keep_BxL, axis=-1, dtype=jnp.float32), 1.0)
  return jnp.sum(x / count_B[None, :, None, None], axis=2)


def _checked(batch):
  hidden = jnp.asarray(batch['hidden'])
  if hidden.ndim != 4 or 0 in hidden.shape:
    raise ValueError(
        f'hidden must have shape [N, B, L, D], each >= 1, got {hidden.shape}.'
    )
  shape = hidden.shape[1:3]
  mask = batch.get('mask')
  mask = np.ones(shape, bool) if mask is None else mask
  segment_ids = batch.get('segment_ids')
  for name, array in (('mask', mask), ('segment_ids', segment_ids)):
    if array is not None and array.shape != shape:
      raise ValueError(f'{name} must have shape {shape}, got {array.shape}.')
  mask = jnp.asarray(mask).astype(bool)
  return hidden, mask, prompt_rows(mask, segment_ids)


@jax.jit
def _of_prompts(hidden_NxBxLxD, keep_BxL):
  def of_layer(x_BxLxD):
    return {
        **summary.entropy_summary(x_BxLxD, mask=keep_BxL),
        'mean_cosine': geometry.mean_cosine(x_BxLxD, mask=keep_BxL),
        'curvature': geometry.curvature(x_BxLxD, mask=keep_BxL),
        'intrinsic_dimension': geometry.intrinsic_dimension(
            x_BxLxD, mask=keep_BxL
        ),
        'mean': mean_states(x_BxLxD[None], keep_BxL)[0],
    }

  # One layer after the other: a layer's Gram matrices are larger than it.
  return jax.lax.map(of_layer, hidden_NxBxLxD)


@jax.jit
def _first_moments(hidden_NxBxLxD, mask_BxL):
  """Nothing yet, and the scale of the layers, so that no square is lost."""
  x = jnp.where(mask_BxL[None, ..., None], hidden_NxBxLxD, 0.0)
  count, width = x.shape[0], x.shape[-1]
  empty = jax.vmap(lambda _: streaming.accumulator_init(width))(
      jnp.arange(count)
  )
  scale = gram.to_unit(x, axis=(1, 2, 3))[:, 0, 0, 0]
  return Moments(scale, empty, empty, empty)


@jax.jit
def _add(moments, hidden_NxBxLxD, mask_BxL, mean_NxBxD, is_prompt_B):
  keep = mask_BxL.reshape(-1)

  def add(layer):
    held, x_BxLxD, mean_BxD = layer
    z = x_BxLxD.reshape(-1, x_BxLxD.shape[-1]).astype(jnp.float32) * held.scale
    unit = gram.prepare(z, keep, center=False, normalize=True)
    moves = keep & jnp.any(unit != 0, axis=-1)
    accumulate = streaming.accumulate
    return Moments(
        held.scale,
        accumulate(held.tokens, z, keep),
        accumulate(held.unit_tokens, unit, moves),
        accumulate(held.prompts, mean_BxD * held.scale, is_prompt_B),
    )

  return jax.lax.map(add, (moments, hidden_NxBxLxD, mean_NxBxD))


def _of_moments(moments: Moments) -> Arrays:
  layers = [
      jax.tree.map(lambda a, layer=layer: a[layer], moments)
      for layer in range(len(moments.scale))
  ]
  found = [jax.device_get(_of_layer(layer)) for layer in layers]
  return {name: np.stack([one[name] for one in found]) for name in found[0]}


def _of_layer(moments):
  found = {'mean_cosine': _cosine(moments.unit_tokens)}
  for rows, center, ending in _SPECTRA:
    state = getattr(moments, rows)
    found |= _read_off(state, center=center, ending=ending)
  return found


# A program each: one with several eigendecompositions can hang on CPUs.
@functools.partial(jax.jit, static_argnames=('center', 'ending'))
def _read_off(state, *, center, ending):
  p = streaming.accumulated_spectrum(state, center=center)
  return summary.summary_of_spectrum(
      p, state.count, p.shape[-1], ending=ending
  )


@jax.jit
def _cosine(unit):
  square = unit.count**2 * jnp.sum(unit.mean**2)
  return geometry.cosine_of_sum(square, unit.count, unit.count)


@jax.jit
def _dimensions(rows_NxSxD, keep_S):
  return jax.lax.map(
      lambda z_SxD: geometry.intrinsic_dimension(z_SxD, mask=keep_S),
      rows_NxSxD,
  )


class _Reservoir:
  """A random sample of the tokens seen so far: those with the least numbers."""

  def __init__(self, size: int, seed: int):
    self._size = size
    self._rng = np.random.default_rng(seed)
    self._held: np.ndarray | None = None
    self._number_S = np.zeros(0)

  def add(self, hidden_NxBxLxD, mask_BxL) -> None:
    number = self._rng.uniform(size=mask_BxL.size)
    number = np.where(np.asarray(mask_BxL).reshape(-1), number, np.inf)
    best = np.argsort(number)[:self._size]
    best = best[np.isfinite(number[best])]
    if len(self._number_S) == self._size:  # the rest cannot enter
      best = best[number[best] < self._number_S.max()]
    count, width = hidden_NxBxLxD.shape[0], hidden_NxBxLxD.shape[-1]
    flat = hidden_NxBxLxD.reshape(count, -1, width)
    # Indexed by NumPy: the number of rows is another in every batch.
    rows = np.asarray(flat)[:, best].astype(np.float32)
    if self._held is not None:
      rows = np.concatenate([self._held, rows], axis=1)
    numbers = np.concatenate([self._number_S, number[best]])
    order = np.argsort(numbers)[:self._size]
    self._held, self._number_S = rows[:, order], numbers[order]

  def rows(self) -> tuple[np.ndarray, np.ndarray]:
    """The sample [N, S, D], filled up, and which rows are of it [S]."""
    assert self._held is not None
    missing = self._size - self._held.shape[1]
    rows = np.pad(self._held, ((0, 0), (0, missing), (0, 0)))
    return rows, np.arange(self._size) < self._size - missing

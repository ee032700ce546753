"""Probes of any function, on arrays of tokens."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from iblm_jax.data import batches, hashing
from iblm_jax.probing import decoder_probe

# (tokens int32 [B, L], mask bool [B, L]) -> [B, E]
Encode = Callable[[jax.Array, jax.Array], jax.Array]


def probe(
    encode: Encode,
    tokens: npt.ArrayLike,
    heldout: npt.ArrayLike,
    *,
    mask: npt.ArrayLike | None = None,
    heldout_mask: npt.ArrayLike | None = None,
    vocab_size: int | None = None,
    on_host: bool = False,
    control: Mapping[str, float] | None = None,
    report: decoder_probe.Report = lambda line: None,
    **options: int | float | str,
) -> dict[str, float]:
  """Measures how many bits of a sequence its embedding holds.

  A small decoder is trained to reproduce a whole sequence from the one vector
  that `encode` makes of it, and a second one, the control, from zeros. What the
  first knows of each token of held-out sequences and the second does not, the
  vector holds. Another decoder may read more; what two tokens have in common
  counts at both.

  Args:
    encode: Maps tokens, int32 [B, L], and a mask, bool [B, L] with True for
      tokens that are there, to one vector for each row, [B, E] of any floating
      dtype. It never changes. JAX must be able to trace it.
    tokens: Sequences to train the decoders on, integers [N, L].
    heldout: Sequences of the same kind for the evaluation, [M, L]; at least
      `batch_size` of them.
    mask: bool [N, L]; None if all tokens are there.
    heldout_mask: The same for `heldout`, [M, L].
    vocab_size: Values that a token can take; None for the largest in the
      arrays plus one.
    on_host: Calls `encode` outside JAX with NumPy arrays, which then may be any
      Python function.
    control: `control_of` an earlier result with the same arrays and options,
      which spares the training of the control.
    report: Receives lines about the progress.
    **options: Fields of `ProbeConfig` but `length`: `num_steps`, `batch_size`,
      `width`, `num_layers`, `num_heads`, `injection`, `peak`, `seed`,
      `num_eval`.

  Returns:
    See `decoder_probe.probe`: 'recovered_bits' of a sequence beyond the
    control, 'information_fraction', 'cross_entropy' (nats per token),
    'accuracy', 'mbe' (entropy of the embeddings in nats) and others.

  Raises:
    ValueError: Shapes, dtypes or an option do not fit, or an embedding is not
      finite.
    TypeError: An option is unknown.

  Example:
    The first of two random tokens is kept, so one of two bits is.

    >>> rows = np.random.default_rng(0).integers(0, 2, (512, 2))
    >>> first = lambda tokens, mask: jax.nn.one_hot(tokens[:, 0], 2)
    >>> found = probe(first, rows[:256], rows[256:], num_layers=1, width=8,
    ...               num_heads=1, num_steps=100, peak=3e-2)
    >>> round(found['recovered_bits'], 1)
    1.0
  """
  train = _rows('tokens', tokens, mask)
  held = _rows('heldout', heldout, heldout_mask)
  length = train[0].shape[1]
  if held[0].shape[1] != length:
    raise ValueError(
        f'heldout must have rows of {length} tokens, as tokens has, got shape'
        f' {held[0].shape}.'
    )
  largest = 1 + int(max(train[0].max(), held[0].max()))
  size = largest if vocab_size is None else vocab_size
  if size < max(largest, 2):
    raise ValueError(
        f'vocab_size must be at least {max(largest, 2)} for these tokens, got'
        f' {size}.'
    )
  settings: dict[str, Any] = options
  cfg = decoder_probe.ProbeConfig(length, **settings)
  if len(held[0]) < cfg.batch_size:
    raise ValueError(
        f'heldout must hold at least batch_size={cfg.batch_size} rows, got'
        f' {len(held[0])}.'
    )
  if on_host:
    encode = _outside(encode, held)
  return decoder_probe.probe(
      decoder_probe.Encoder(
          lambda params, tokens_BxL, mask_BxL: encode(tokens_BxL, mask_BxL),
          {},
          size,
      ),
      ArraySource(*train, cfg.batch_size, size, seed=cfg.seed),
      ArraySource(*held, cfg.batch_size, size),
      cfg,
      report,
      control,
  )


class ArraySource:
  """Rows of an array as a `data.batches.Source`.

  Args:
    tokens: int32 [N, L].
    mask: bool [N, L].
    batch_size: Rows of a batch.
    vocab_size: Tokens are in 0..vocab_size-1.
    seed: Each epoch is a random order of all rows, without an end; None is one
      pass over whole batches, in order.
  """

  def __init__(
      self,
      tokens: np.ndarray,
      mask: np.ndarray,
      batch_size: int,
      vocab_size: int,
      seed: int | None = None,
  ):
    self._arrays = {'tokens': tokens, 'mask': mask}
    self._seed, self._count = seed, len(tokens)
    self.batch_size, self.vocab_size = batch_size, vocab_size
    self.length = tokens.shape[1]
    self.num_eval_batches = self._count // batch_size if seed is None else None

  def batch(self, k: int, rows: Sequence[int] | None = None) -> batches.Batch:
    """Rows of global batch `k`; all by default."""
    number_b = batches.row_numbers(
        k, rows, batch_size=self.batch_size, num_batches=self.num_eval_batches
    )
    if self._seed is not None:
      epoch_b, place_b = np.divmod(number_b, self._count)
      keys_b = hashing.fold(self._seed, epoch_b)
      number_b = hashing.shuffled(keys_b, place_b, self._count)
    return {name: array[number_b] for name, array in self._arrays.items()}


def _rows(name, tokens, mask) -> tuple[np.ndarray, np.ndarray]:
  tokens = np.asarray(tokens)
  if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in 'iu':
    raise ValueError(
        f'{name} must be integers of shape [N, L], got {tokens.dtype} of shape'
        f' {tokens.shape}.'
    )
  if tokens.min() < 0:
    raise ValueError(f'{name} must be at least 0, got {tokens.min()}.')
  mask = np.ones(tokens.shape, bool) if mask is None else np.asarray(mask)
  if mask.shape != tokens.shape or mask.dtype != bool:
    raise ValueError(
        f'the mask of {name} must be bool of shape {tokens.shape}, got'
        f' {mask.dtype} of shape {mask.shape}.'
    )
  return tokens.astype(np.int32), mask


def _outside(encode, rows) -> Encode:
  """`encode` on the host, its width found with the first row."""

  def called(tokens_BxL, mask_BxL):
    found = encode(np.asarray(tokens_BxL), np.asarray(mask_BxL))
    return np.asarray(found, np.float32)

  width = called(*(array[:1] for array in rows)).shape[-1]

  @functools.wraps(encode)
  def inside(tokens_BxL, mask_BxL):
    shape = jax.ShapeDtypeStruct((tokens_BxL.shape[0], width), jnp.float32)
    return jax.pure_callback(called, shape, tokens_BxL, mask_BxL)

  return inside

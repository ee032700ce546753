"""Spectra and entropies of every layer, for windows of many sizes."""

import functools
import io
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from iblm_jax import files
from iblm_jax.analysis import profiles
from iblm_jax.analysis import subject as subject_lib
from iblm_jax.information import entropy, gram, profile, spectrum
from iblm_jax.training import progress

ORDERS = (0.0, 0.5, 1.0, 2.0, float('inf'))
# First index of arrays below: as they are, or without the window's mean.
RAW, CENTERED = 0, 1

Arrays = dict[str, np.ndarray]


def patch_sizes(length: int, base: int) -> tuple[int, ...]:
  """Lists the powers of two up to a row's length, that length, and `base`.

  >>> patch_sizes(48, 8)
  (2, 4, 8, 16, 32, 48)
  """
  powers = {2**k for k in range(1, length.bit_length()) if 2**k <= length}
  return tuple(sorted(powers | {length, min(base, length)}))


def measure(
    subject: subject_lib.Subject,
    sizes: tuple[int, ...],
    keep_in: epath.Path,
    report: Callable[[str], None],
) -> Arrays:
  """Averages spectra and entropies over all windows of a subject's batches.

  Args:
    sizes: Numbers of tokens in a window.
    keep_in: An `.npz` file of the sums so far; a later call goes on from it.

  Returns:
    Float64 arrays for each window size S, with C = 2 for RAW and CENTERED and
    K = min(S, D): 'entropy/patch_S' [N, C, orders] in nats,
    'effective_rank/patch_S' [N, C], 'entropy_normalized/patch_S' [N] (order 2,
    rows of unit norm), 'mean_share/patch_S' [N], 'spectrum/patch_S' [N, C, K]
    in descending order, 'windows/patch_S' [], the number of windows; and
    'rms' [N] and 'tokens' [].
  """
  sums, done = _load(keep_in)
  if 0 < done < subject.num_batches:
    report(f'going on from batch {done} of {subject.num_batches}')
  # On the device once, not with every batch.
  params = jax.device_put(subject.params)
  started, first = time.monotonic(), done
  for k in range(done, subject.num_batches):
    batch = subject.read(k)
    hidden = profiles.streams(params, batch, subject.model)
    found = _sums_over_tokens(hidden, batch['mask'])
    for size in sizes:
      # One after the other: XLA's CPU threads can wait for each other for ever
      # where one program holds several eigendecompositions that may overlap.
      found |= jax.device_get(
          _sums(hidden, batch['mask'], batch['segment_ids'], size=size)
      )
    for name, value in found.items():
      sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64)
    _save(keep_in, sums, k + 1)
    spent = time.monotonic() - started
    left = spent / (k + 1 - first) * (subject.num_batches - k - 1)
    report(
        f'batch {k + 1}/{subject.num_batches}'
        f'  {int(sums["tokens"])} tokens  {progress.clock(left)} left'
    )
  return _means(sums, subject.width)


def _means(sums: Arrays, width: int) -> Arrays:
  means = {
      'tokens': sums['tokens'],
      'rms': np.sqrt(sums['square'] / (sums['tokens'] * width)),
  }
  for name, total in sums.items():
    kind, _, size = name.partition('/')
    if not size:
      continue
    count = np.maximum(sums[f'windows/{size}'], 1)
    means[name] = total if kind == 'windows' else total / count
  return means


@jax.jit
def _sums_over_tokens(
    hidden: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
  valid = jnp.where(mask[None, ..., None], hidden, 0.0)
  return {
      'square': jnp.sum(valid * valid, axis=(1, 2, 3)),
      'tokens': jnp.sum(mask),
  }


@functools.partial(jax.jit, static_argnames='size')
def _sums(
    hidden: jax.Array, mask: jax.Array, segment_ids: jax.Array, *, size: int
) -> dict[str, jax.Array]:
  """Sums over the windows of one size in a batch."""
  keep = entropy.rows_that_count(hidden[0], size, mask, segment_ids)
  # One layer after the other: together they would need several times the room.
  found = jax.lax.map(
      lambda x_BxLxD: _of_windows(entropy.windows(x_BxLxD, size), keep), hidden
  )
  found['windows'] = jnp.sum(_is_valid(keep))
  return {f'{name}/patch_{size}': total for name, total in found.items()}


def _of_windows(rows_BxWxPxD, keep_BxWxP) -> dict[str, jax.Array]:
  """Sums over the windows with at least two rows that count."""
  valid_BxW = _is_valid(keep_BxWxP)
  rows, centred = (
      gram.prepare(rows_BxWxPxD, keep_BxWxP, center=center, normalize=False)
      for center in (False, True)
  )
  p_2xBxWxK = spectrum.matrix_spectrum(jnp.stack([rows, centred]))
  entropies = [
      spectrum.entropy_of_spectrum(p_2xBxWxK, alpha=alpha) for alpha in ORDERS
  ]
  ranks_2xBxW = jnp.exp(entropies[ORDERS.index(1.0)])
  total = lambda a: jnp.sum(jnp.where(valid_BxW, a, 0.0), axis=(-2, -1))
  return {
      'entropy': jnp.stack(
          [jnp.stack([total(s[c]) for s in entropies]) for c in (0, 1)]
      ),
      'effective_rank': jnp.stack([total(ranks_2xBxW[c]) for c in (0, 1)]),
      'entropy_normalized': total(
          entropy.matrix_entropy(
              rows_BxWxPxD, alpha=2.0, mask=keep_BxWxP, normalize=True
          )
      ),
      'mean_share': total(profile.mean_share(rows, keep_BxWxP)),
      'spectrum': jnp.sum(
          jnp.where(valid_BxW[None, ..., None], p_2xBxWxK, 0.0), axis=(1, 2)
      ),
  }


def _is_valid(keep_BxWxP):
  return jnp.sum(keep_BxWxP, axis=-1) >= 2


def _load(path: epath.Path) -> tuple[Arrays, int]:
  if not path.exists():
    return {}, 0
  with path.open('rb') as file, np.load(file) as held:
    sums = dict(held)
  return sums, int(sums.pop('done'))


def _save(path: epath.Path, sums: Arrays, done: int) -> None:
  arrays: dict[str, Any] = {**sums, 'done': done}
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  files.write_bytes(path, buffer.getvalue())

"""Losses of documents under a model, computed in batches on the device."""

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from iblm_jax import bounds
from iblm_jax.certification import scoring
from iblm_jax.certification.scoring import DocumentLosses
from iblm_jax.data import buckets as buckets_lib
from iblm_jax.data import documents as documents_lib
from iblm_jax.models import families

# Batches that the device is given before the host reads its results.
_AHEAD = 2
# Rows that end anywhere have so many tokens, times a whole number.
_MULTIPLE = 16


def measure(
    params: Any,
    cfg: families.ModelConfig,
    documents: documents_lib.Documents,
    split: str,
    indices: npt.ArrayLike,
    *,
    alphas: Sequence[float],
    top_k: Sequence[int],
    max_tokens: int,
    betas: Sequence[float] = (),
    shortest: int = 1,
    reference_bits_N: np.ndarray | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> DocumentLosses:
  """Scores documents in batches of similar lengths.

  What is compiled depends on the model and the source alone: it serves any
  documents, weights and numbers of documents.

  Args:
    params: The parameters of the model, on the device.
    cfg: The config of the model, which has no dropout.
    documents: The source of the documents.
    split: 'train' or 'heldout'.
    indices: Numbers of documents, [N]; one asked for twice is scored once.
    alphas: Weights of the uniform distribution.
    top_k: Sizes of the sets of most likely tokens.
    max_tokens: Most tokens of a batch.
    betas: Weights of the uniform distribution over whole documents.
    shortest: Documents of fewer tokens get the largest loss of a whole one.
    reference_bits_N: From `totals` of a model that the documents are compared
      with, which is mixed with the same weights.
    report: Called with the number of rows scored and of all rows.

  Returns:
    The losses, in the order of `indices`.
  """
  found = _score_units(
      params, cfg, documents, split, indices, alphas, top_k, max_tokens, report
  )
  num = len(alphas)
  whole_BxN = scoring.whole_rows(
      found.nll_bits_N,
      found.num_tokens_N,
      betas,
      shortest,
      documents.vocab_size,
      reference_bits_N,
  )
  return DocumentLosses(
      np.concatenate([found.means_CxN[:num], whole_BxN]),
      found.means_CxN[num:],
      found.tokens,
      found.token_means_C[:num],
  )


def totals(
    params: Any,
    cfg: families.ModelConfig,
    documents: documents_lib.Documents,
    split: str,
    indices: npt.ArrayLike,
    *,
    max_tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the bits of whole documents, and their tokens; see `measure`.

  Returns:
    float64 [N] and int64 [N], in the order of `indices`.
  """
  found = _score_units(
      params, cfg, documents, split, indices, (), (), max_tokens,
      lambda done, total: None,
  )
  return found.nll_bits_N, found.num_tokens_N


class _Units(NamedTuple):
  """Sums and means over the scored targets of units."""

  means_CxN: np.ndarray
  nll_bits_N: np.ndarray
  num_tokens_N: np.ndarray
  tokens: int
  token_means_C: np.ndarray


def _score_units(
    params, cfg, documents, split, indices, alphas, top_k, max_tokens, report
) -> _Units:
  unique, place = np.unique(np.asarray(indices, np.int64), return_inverse=True)
  reduce = functools.partial(
      _row_sums, alphas=alphas, top_k=top_k, vocab_size=documents.vocab_size
  )
  waiting: Any = collections.deque()
  found, units, counts, done = [], [], [], 0
  total = documents.rows(split, unique).unit.size
  for unit_R, batch in documents_lib.evaluation_batches(
      documents, split, unique, max_tokens=max_tokens
  ):
    waiting.append((_scores(params, batch, cfg=cfg), batch['loss_mask']))
    units.append(unit_R)
    counts.append(batch['loss_mask'].sum(axis=1))
    if len(waiting) > _AHEAD:
      found.append(reduce(*waiting.popleft()))
    done += int((unit_R >= 0).sum())
    report(done, total)
  found += [reduce(*one) for one in waiting]
  sums_CxR = np.concatenate(found, axis=1)
  unit_R, count_R = np.concatenate(units), np.concatenate(counts)
  means_CxU = documents_lib.unit_means(sums_CxR, count_R, unit_R, unique.size)
  place = place.reshape(-1)
  there_R = unit_R >= 0
  count_U = np.bincount(unit_R[there_R], count_R[there_R], unique.size)
  means_CxN, count_N = means_CxU[:, place], count_U[place].astype(np.int64)
  tokens = int(count_R[there_R].sum())
  return _Units(
      means_CxN[:-1],
      means_CxN[-1] * count_N,
      count_N,
      tokens,
      sums_CxR[:-1, there_R].sum(axis=1) / tokens,
  )


def score_ends(
    params: Any,
    cfg: families.ModelConfig,
    rows: Sequence[Sequence[int]],
    counts: Sequence[int],
    *,
    max_tokens: int,
) -> list[tuple[float, bool]]:
  """Scores the last tokens of rows, each row in one batch with similar ones.

  Args:
    params: The parameters of the model.
    cfg: The config of the model.
    rows: Ids of each row, at least 2 and one more than the model reads at most.
    counts: How many tokens at the end of each row are scored, at least 1 and
      fewer than there are.
    max_tokens: Most tokens of a batch, where a row has no more.

  Returns:
    For each row the log-likelihood of these tokens in nats, and whether each of
    them is the likeliest one.

  Example:
    >>> from iblm_jax import models
    >>> cfg = models.DecoderConfig(8, num_layers=1, width=8, num_heads=1)
    >>> params = models.init(jax.random.key(0), cfg)
    >>> score = functools.partial(score_ends, params, cfg, max_tokens=64)
    >>> (ab, _), (b, _), (a, _) = score([[0, 1, 2]] * 2 + [[0, 1]], [2, 1, 1])
    >>> abs(ab - a - b) < 1e-5
    True
  """
  if not rows:
    return []
  length_N = np.array([len(row) - 1 for row in rows])
  room = int(length_N.max()) + _MULTIPLE
  longest = families.lengths(cfg).longest or room
  found = [(0.0, False)] * len(rows)
  for bucket in buckets_lib.buckets(
      length_N, max(max_tokens, room), multiple=_MULTIPLE
  ):
    # A multiple may lie above what the model reads.
    shape = (bucket.rows.size, min(bucket.length, longest))
    batch = {
        name: np.zeros(shape, np.int32)
        for name in ('tokens', 'targets', 'mask', 'segment_ids', 'positions')
    }
    batch['positions'] += np.arange(shape[1])
    held = [(b, n) for b, n in enumerate(bucket.rows.tolist()) if n >= 0]
    for place, number in held:
      length = length_N[number]
      batch['tokens'][place, :length] = rows[number][:-1]
      batch['targets'][place, :length] = rows[number][1:]
      batch['mask'][place, :length] = 1
    batch['mask'] = batch['mask'].astype(bool)
    logp_BxL, rank_BxL = jax.device_get(_scores(params, batch, cfg=cfg))
    for place, number in held:
      scored = slice(length_N[number] - counts[number], length_N[number])
      logp = logp_BxL[place, scored].sum(dtype=np.float64)
      found[number] = float(logp), not rank_BxL[place, scored].any()
  return found


@functools.partial(jax.jit, static_argnames='cfg')
def _scores(params, batch, *, cfg) -> tuple[Any, Any]:
  """Log-probability and rank of every target, [R, L]."""
  targets_RxL = batch['targets']
  length = targets_RxL.shape[1]
  # Rows are as short as their bucket; some models read one length alone.
  room = ((0, 0), (0, (families.lengths(cfg).fixed or length) - length))
  read: dict[str, Any] = {
      name: jnp.pad(batch[name], room) if room[1][1] else batch[name]
      for name in ('tokens', 'mask', 'segment_ids', 'positions')
  }
  found = families.apply(params, read.pop('tokens'), cfg, **read)
  logits_RxLxV = found.logits_BxLxV[:, :length] if room[1][1] else (
      found.logits_BxLxV
  )
  chosen_RxL = jnp.take_along_axis(
      logits_RxLxV, targets_RxL[..., None], axis=-1
  )[..., 0]
  logp_RxL = chosen_RxL - jax.nn.logsumexp(logits_RxLxV, axis=-1)
  return logp_RxL, bounds.rank_of_target(logits_RxLxV, targets_RxL)


def _row_sums(scores, mask_RxL, *, alphas, top_k, vocab_size) -> np.ndarray:
  """Sums over each row's scored targets, float64 [A + K, R]; on the host."""
  logp_RxL, rank_RxL = jax.device_get(scores)
  values = [
      bounds.smoothed_nll_bits(logp_RxL, alpha, vocab_size) for alpha in alphas
  ]
  values += [rank_RxL >= k for k in top_k]
  # Rounding may make a probability larger than 1.
  values.append(np.maximum(-np.asarray(logp_RxL, np.float64), 0) / np.log(2))
  return np.stack(
      [np.where(mask_RxL, value, 0.0).sum(axis=1) for value in values]
  )

"""What a model loses on documents, one number for each of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from iblm_jax import bounds
from iblm_jax.data import documents as documents_lib
from iblm_jax.models import decoder


class DocumentLosses(NamedTuple):
  """A column for each document.

  Attributes:
    losses: float64 [A, N], bits per token of the smoothed predictions.
    errors: float64 [K, N], share of tokens outside the k most likely.
    tokens: int, targets scored in all.
  """

  losses: np.ndarray
  errors: np.ndarray
  tokens: int


def measure(
    params: Any,
    cfg: decoder.DecoderConfig,
    documents: documents_lib.Documents,
    split: str,
    indices: npt.ArrayLike,
    *,
    alphas: tuple[float, ...],
    top_k: tuple[int, ...],
    max_tokens: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> DocumentLosses:
  """Scores documents in batches of similar lengths.

  Args:
    params: of the model, on device.
    cfg: of the model; it has no dropout, so its predictions are a function.
    documents: where they come from.
    split: 'train' or 'heldout'.
    indices: numbers of documents, [N]; one asked for twice is scored once.
    alphas: weights of the uniform distribution.
    top_k: sizes of the sets of most likely tokens.
    max_tokens: of a batch.
    report: told how many rows of how many are done.

  Returns:
    `DocumentLosses`, in the order of `indices`.
  """
  unique, place = np.unique(np.asarray(indices, np.int64), return_inverse=True)
  found, units, counts, done = [], [], [], 0
  total = documents.rows(split, unique).unit.size
  for unit_R, batch in documents_lib.evaluation_batches(
      documents, split, unique, max_tokens=max_tokens
  ):
    sums = _row_sums(
        params,
        batch,
        cfg=cfg,
        alphas=alphas,
        top_k=top_k,
        vocab_size=documents.vocab_size,
    )
    found.append(sums)  # read later: the device goes on meanwhile
    units.append(unit_R)
    counts.append(batch['loss_mask'].sum(axis=1))
    if len(found) > 2:
      found[-3] = jax.device_get(found[-3])
    done += int((unit_R >= 0).sum())
    report(done, total)
  sums_CxR = np.concatenate(jax.device_get(found), axis=1)
  unit_R, count_R = np.concatenate(units), np.concatenate(counts)
  means_CxU = documents_lib.unit_means(sums_CxR, count_R, unit_R, unique.size)
  means_CxN = means_CxU[:, place.reshape(-1)]
  return DocumentLosses(
      means_CxN[: len(alphas)],
      means_CxN[len(alphas) :],
      int(count_R[unit_R >= 0].sum()),
  )


@functools.partial(
    jax.jit, static_argnames=('cfg', 'alphas', 'top_k', 'vocab_size')
)
def _row_sums(params, batch, *, cfg, alphas, top_k, vocab_size) -> jax.Array:
  """Sums over each row's scored targets, float32 [A + K, R]."""
  logits_RxLxV = decoder.apply(
      params,
      batch['tokens'],
      cfg,
      mask=batch['mask'],
      segment_ids=batch['segment_ids'],
      positions=batch['positions'],
  ).logits_BxLxV
  targets_RxL = batch['targets']
  chosen_RxL = jnp.take_along_axis(
      logits_RxLxV, targets_RxL[..., None], axis=-1
  )[..., 0]
  logp_RxL = chosen_RxL - jax.nn.logsumexp(logits_RxLxV, axis=-1)
  rank_RxL = bounds.rank_of_target(logits_RxLxV, targets_RxL)
  values = [
      bounds.smoothed_nll_bits(logp_RxL, alpha, vocab_size) for alpha in alphas
  ]
  values += [(rank_RxL >= k).astype(jnp.float32) for k in top_k]
  mask_RxL = batch['loss_mask']
  return jnp.stack(
      [jnp.sum(jnp.where(mask_RxL, value, 0.0), axis=1) for value in values]
  )

"""What a model is asked: the next token, its input again, or its past again.

A task is a pure function of a batch: it says what is read, which targets count,
and how much. Models and losses stay the same.

In copying, the second half of a row is replaced by the first, and only it
counts. In a blank copy the model reads blanks in its place, so that everything
it says comes from what it kept of the first half. (arXiv 2602.13466.)
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp

from iblm_jax import fields
from iblm_jax.typing import Batch

KINDS = ('causal', 'regeneration', 'copy', 'blank_copy', 'combined')
# What can be measured of a model that predicts next tokens.
VIEWS = ('causal', 'copy', 'blank_copy')


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """What is asked.

  Attributes:
    kind: 'causal' (the next token), 'regeneration' (logits[:, t] are asked for
      token t: autoencoders), 'copy', 'blank_copy' or 'combined' (causal and
      copying at once, on the same rows).
    copy_weight: Weight of the mean loss of copying beside the causal one in
      'combined'. The public code's sums amount to 0.5.
    copying: How 'combined' copies.
    blank_id: Token that is read as a blank; None takes the model's last one.
      No text may hold it.
    also_measure: Views (of 'causal', 'copy', 'blank_copy') that evaluations
      report besides what is trained.

  Raises:
    ValueError: If a value is outside its range; names field and value.
  """

  kind: str = fields.field('causal', choices=KINDS)
  copy_weight: float = fields.field(1.0, low=0)
  copying: str = fields.field('copy', choices=VIEWS[1:])
  blank_id: int | None = fields.field(None, low=0)
  also_measure: tuple[str, ...] = ()

  def __post_init__(self):
    fields.check(self)
    strangers = set(self.also_measure) - set(VIEWS)
    if strangers or (self.also_measure and self.kind == 'regeneration'):
      raise ValueError(
          f'also_measure must name some of {VIEWS}, and nothing for the kind'
          f" 'regeneration', got {self.also_measure}."
      )

  @property
  def views(self) -> tuple[str, ...]:
    """Views that an evaluation measures; the first without a prefix."""
    trained = {
        'combined': ('causal', self.copying)
    }.get(self.kind, (self.kind,))
    return tuple(dict.fromkeys((*trained, *self.also_measure)))

  @property
  def reads(self) -> int:
    """Rows that a step reads for each row of the data."""
    return 2 if self.kind == 'combined' else 1

  @property
  def has_blanks(self) -> bool:
    """Whether a model reads blanks."""
    return 'blank_copy' in self.views


def view(batch: Batch, kind: str, blank_id: int) -> dict[str, jax.Array]:
  """Returns a batch of one kind of task: arrays of the same names and shapes.

  Args:
    batch: Arrays [B, L], see `data.batches`.
    kind: Any of `KINDS` but 'combined'.
    blank_id: Token that 'blank_copy' reads as a blank.

  Raises:
    ValueError: If the kind is unknown, or rows to be copied have an odd length.

  Example:
    >>> row = lambda *x: jnp.array([x])
    >>> batch = {'tokens': row(5, 6, 7, 8), 'targets': row(6, 7, 8, 9)}
    >>> batch |= {name: jnp.ones([1, 4], bool) for name in ('mask',)}
    >>> copied = view(batch, 'blank_copy', blank_id=0)
    >>> copied['tokens'].tolist(), copied['targets'].tolist()
    ([[5, 6, 0, 0]], [[6, 5, 6, 6]])
    >>> copied['loss_mask'].tolist()
    [[False, True, True, False]]
  """
  match kind:
    case 'causal':
      return dict(batch)
    case 'regeneration':
      asked = {'targets': batch['tokens'], 'loss_mask': batch['mask']}
      return {**batch, **asked}
    case 'copy' | 'blank_copy':
      return _copied(batch, blank_id if kind == 'blank_copy' else None)
  raise ValueError(f'kind must be one of {KINDS[:-1]}, got {kind!r}.')


def make(
    batch: Batch, cfg: TaskConfig, vocab_size: int, parts: int = 1
) -> dict[str, jax.Array]:
  """Returns the batch of a task that is trained on.

  For 'combined' it has 2 B rows, `parts` causal ones and their copies in turn:
  so no row changes its device, and every part has each of its rows with its
  copy. Its `loss_weight` is float32 [2 B]: the loss is the sum over counted
  targets of weight times nll, which is mean causal + copy_weight x mean copy.

  Args:
    batch: Arrays [B, L].
    vocab_size: V of the model, whose last token is the blank by default.
    parts: Micro-batches, row b in part b % parts; divides B.
  """
  blank_id = blank(cfg, vocab_size)
  if cfg.kind != 'combined':
    return view(batch, cfg.kind, blank_id)
  causal = view(batch, 'causal', blank_id)
  copied = view(batch, cfg.copying, blank_id)
  causal['loss_weight'] = _weights(causal['loss_mask'], 1.0)
  copied['loss_weight'] = _weights(copied['loss_mask'], cfg.copy_weight)
  alternate = lambda *pair: einops.rearrange(
      [*pair], 'two (runs parts) ... -> (runs two parts) ...', parts=parts
  )
  return {name: alternate(causal[name], copied[name]) for name in causal}


def blank(cfg: TaskConfig, vocab_size: int) -> int:
  """Returns the token that is read as a blank."""
  return vocab_size - 1 if cfg.blank_id is None else cfg.blank_id


def _copied(batch, blank_id):
  length = batch['tokens'].shape[1]
  if length % 2:
    raise ValueError(f'a row that is copied must be even, got {length} tokens.')
  half = length // 2
  twice = lambda a_BxH: jnp.concatenate([a_BxH, a_BxH], axis=1)
  source_BxH = batch['tokens'][:, :half]
  mask_BxL = twice(batch['mask'][:, :half])
  tokens_BxL = twice(source_BxH)
  # The target of t is token t + 1; nothing follows the last one.
  ahead = lambda a_BxL: jnp.concatenate([a_BxL[:, 1:], a_BxL[:, -1:]], axis=1)
  place = jnp.arange(length)[None]
  counts_1xL = (place + 1 >= half) & (place < length - 1)
  read_BxL = tokens_BxL
  if blank_id is not None:
    blanks_BxH = jnp.full_like(source_BxH, blank_id)
    read_BxL = jnp.concatenate([source_BxH, blanks_BxH], axis=1)
  place = jnp.broadcast_to(place.astype(jnp.int32), tokens_BxL.shape)
  return {
      **batch,
      'tokens': read_BxL,
      'targets': ahead(tokens_BxL),
      'loss_mask': ahead(mask_BxL) & counts_1xL,
      'mask': mask_BxL,
      'segment_ids': mask_BxL.astype(jnp.int32),
      'positions': place,
  }


def _weights(loss_mask_BxL, weight):
  count = jnp.sum(loss_mask_BxL.astype(jnp.float32))
  one = weight / jnp.maximum(count, 1.0)
  return jnp.full(loss_mask_BxL.shape[:1], one)

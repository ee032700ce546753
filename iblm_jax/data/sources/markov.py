"""Documents of hidden topics: Markov chains whose best loss is known.

A document draws one of a few topics, which no token names. Each topic is a
table of transitions of order 1: a few successors of every token, with random
probabilities. So most of a token is predicted by the one before it, and all
that the earlier ones are good for is to tell the topic, log2(topics) bits of a
document at most. The control `uniform` has nothing to predict.

Document i is a function of the seed and of i; nothing is stored. It has no end
mark, and its first token is uniform.
"""

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from iblm_jax import fields
from iblm_jax.data import _checks, generated, hashing, kinds

SPLITS = ('train', 'heldout')

# Probabilities are multiples of 1 / _SLOTS, so that one byte draws a successor
# and they are known exactly. With the weights below, each of the most
# successors still has a slot.
_SLOTS = 256
_MAX_WEIGHT = 8
_MAX_SUCCESSORS = 32
# Separate the draws of one seed.
_TABLES, _TRAIN, _HELDOUT = 0x3A60, 0x3A61, 0x3A62


@dataclasses.dataclass(frozen=True)
class MarkovConfig:
  """Options of the source.

  Attributes:
    vocab_size: Tokens are in 0..vocab_size-1; 2..1024.
    num_topics: Tables of transitions, equally likely, 1..64.
    successors: Least and most distinct successors of a token in a topic,
      1..32 and no more than there are tokens.
    length: Tokens of a row, which is one document, 1..65536.
    seed: Seed of the tables and, with that of the run, of the documents,
      0..2**63-1.
    num_heldout: Documents of the set 'heldout', at least 1.
    uniform: Whether every token is uniform and independent of the others, as a
      control; topics and successors are then without effect.

  Raises:
    ValueError: An option is out of its range.

  >>> MarkovConfig(successors=[2, 3]).successors
  (2, 3)
  """

  vocab_size: int = fields.field(64, low=2, high=1024)
  num_topics: int = fields.field(8, low=1, high=64)
  successors: tuple[int, int] = (4, 8)
  length: int = fields.field(64, low=1, high=2**16)
  seed: int = fields.field(0, low=0, high=2**63 - 1)
  num_heldout: int = fields.field(1024, low=1, high=2**40)
  uniform: bool = False

  def __post_init__(self):
    if not isinstance(self.uniform, bool):
      raise ValueError(f'uniform must be a bool, got {self.uniform!r}.')
    # Configs may come with lists; a frozen config has to be hashable.
    for most in (_MAX_SUCCESSORS, min(_MAX_SUCCESSORS, self.vocab_size)):
      pair = _checks.check_range('successors', self.successors, 1, most)
      object.__setattr__(self, 'successors', pair)
      fields.check(self)


def transitions(config: MarkovConfig) -> np.ndarray:
  """Returns the exact probabilities of the next token, float64 [Z, V, V].

  The entry [z, v, w] is that of w after v in topic z, a multiple of 1/256, or
  1/V for uniform tokens.

  >>> transitions(MarkovConfig(vocab_size=8))[0].sum(axis=-1).tolist()
  [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
  """
  num_tokens = config.vocab_size
  shape = (config.num_topics, num_tokens, num_tokens)
  if config.uniform:
    return np.full(shape, 1 / num_tokens)
  slot_SxR = _slots(config).reshape(-1, _SLOTS) // _SLOTS % num_tokens
  found_SxV = np.zeros((slot_SxR.shape[0], num_tokens))
  np.add.at(found_SxV, (np.arange(len(slot_SxR))[:, None], slot_SxR), 1)
  return found_SxV.reshape(shape) / _SLOTS


def entropy_rate(config: MarkovConfig) -> float:
  """Computes the exact entropy per token of a long document.

  Returns:
    Nats: the mean over topics of the entropy rate of the chain that begins with
    a uniform token. The loss of no model gets below it as documents get longer,
    that of the best one (`predictive_nll`) gets there.

  >>> round(entropy_rate(MarkovConfig(vocab_size=8, uniform=True)), 6)
  2.079442
  """
  step_ZxVxV = transitions(config)
  log_step = np.log(np.where(step_ZxVxV > 0, step_ZxVxV, 1))
  entropy_ZxV = -(step_ZxVxV * log_step).sum(axis=-1)
  # Staying with probability 1/2 changes no average over time, and it makes the
  # powers converge for periodic chains as well.
  power_ZxVxV = (step_ZxVxV + np.eye(config.vocab_size)) / 2
  change = np.inf
  while change > 1e-13:
    square = power_ZxVxV @ power_ZxVxV
    square /= square.sum(axis=-1, keepdims=True)
    change = np.abs(square - power_ZxVxV).max()
    power_ZxVxV = square
  return float((power_ZxVxV.mean(axis=1) * entropy_ZxV).sum(axis=-1).mean())


def predictive_nll(
    config: MarkovConfig, tokens_BxL1: npt.ArrayLike
) -> np.ndarray:
  """Computes the loss of the best prediction of each token from its past.

  The topic is not known: the prediction is the mixture of all topics, each
  weighted by its probability given the tokens so far. No model has a smaller
  expected loss at any position.

  Args:
    config: Options of the source.
    tokens_BxL1: Beginnings of documents, whole numbers of shape [B, L + 1],
      such as the tokens of a batch and their last target; at least two.

  Returns:
    float64 [B, L], nats: -log p(token t+1 | tokens 0..t).

  Raises:
    ValueError: The shape is another, a token is out of its range, or no topic
      has such a document.

  >>> config = MarkovConfig(vocab_size=8, uniform=True)
  >>> predictive_nll(config, [[3, 1, 4]]).round(3).tolist()
  [[2.079, 2.079]]
  """
  tokens = _checked_tokens(config, 'tokens_BxL1', tokens_BxL1, 2)
  weight_ZxB = np.full((config.num_topics, len(tokens)), 1 / config.num_topics)
  return _predict(transitions(config), weight_ZxB, tokens)


def document_nll(
    config: MarkovConfig, tokens_BxL: npt.ArrayLike
) -> np.ndarray:
  """Computes -log p of documents exactly; its mean is their entropy.

  Args:
    config: Options of the source; its length has no effect.
    tokens_BxL: Whole documents, integers [B, L], L at least 1.

  Returns:
    float64 [B], nats: -log p(document), whatever its topic.

  Raises:
    ValueError: See `predictive_nll`.

  >>> config = MarkovConfig(vocab_size=8, uniform=True)
  >>> document_nll(config, [[3, 1, 4]]).round(3).tolist()  # 3 ln 8
  [6.238]
  """
  tokens = _checked_tokens(config, 'tokens_BxL', tokens_BxL, 1)
  weight_ZxB = np.full((config.num_topics, len(tokens)), 1 / config.num_topics)
  later_BxL = _predict(transitions(config), weight_ZxB, tokens)
  return np.log(config.vocab_size) + later_BxL.sum(axis=1)


def _predict(step_ZxVxV, weight_ZxB, tokens_BxL1) -> np.ndarray:
  """-log p of each token but the first, from topics' weights at the first."""
  nll_BxL = np.empty((tokens_BxL1.shape[0], tokens_BxL1.shape[1] - 1))
  for t in range(nll_BxL.shape[1]):
    now_B, next_B = tokens_BxL1[:, t], tokens_BxL1[:, t + 1]
    weight_ZxB = weight_ZxB * step_ZxVxV[:, now_B, next_B]
    predicted_B = weight_ZxB.sum(axis=0)
    if not predicted_B.all():
      raise ValueError(
          'tokens must be documents of the source, got row'
          f' {int(np.argmin(predicted_B))}, which no topic has from token'
          f' {t + 1} on.'
      )
    weight_ZxB = weight_ZxB / predicted_B
    nll_BxL[:, t] = -np.log(predicted_B)
  return nll_BxL


def _checked_tokens(config, name, tokens, least) -> np.ndarray:
  tokens = np.asarray(tokens)
  last = config.vocab_size - 1
  is_whole = np.issubdtype(tokens.dtype, np.integer)
  if not is_whole or tokens.ndim != 2 or tokens.shape[1] < least or (
      ((tokens < 0) | (tokens > last)).any()
  ):
    raise ValueError(
        f'{name} must be integers of shape [B, n] with n of at least {least},'
        f' between 0 and {last}, got {tokens!r}.'
    )
  return tokens


class MarkovSource(generated.GeneratedSource):
  """Random access to documents, one a row; see `generated.GeneratedSource`.

  All targets count. The documents of 'heldout' are the same for every seed and
  batch size.

  >>> source = MarkovSource(MarkovConfig(length=16), batch_size=2)
  >>> source.batch(0)['tokens'].shape
  (2, 16)
  """

  config: MarkovConfig

  def make_rows(self, i: np.ndarray) -> tuple[np.ndarray, bool, bool]:
    """Makes the documents `i` and one token more of each."""
    return self._documents(i), True, True

  def _documents(self, i: np.ndarray) -> np.ndarray:
    """The documents `i` and one token more, int32 of shape [n, L + 1]."""
    config = self.config
    if self.split == 'train':
      key = hashing.fold(hashing.fold(config.seed, _TRAIN), self.seed)
    else:
      key = hashing.fold(config.seed, _HELDOUT)
    key_n = hashing.fold(key, i)
    if config.uniform:
      draw_nxL1 = hashing.fold(key_n[:, None], np.arange(config.length + 1))
      return hashing.below(draw_nxL1, config.vocab_size).astype(np.int32)
    num_words = -(-config.length // 8)  # A byte draws a successor.
    draw_nxD = hashing.fold(key_n[:, None], np.arange(2 + num_words))
    byte_nxM = draw_nxD[:, 2:].astype('<u8', order='C').view(np.uint8)
    byte_Mxn = np.ascontiguousarray(byte_nxM.T)
    origin_n = hashing.below(draw_nxD[:, 0], config.num_topics)
    origin_n *= config.vocab_size
    place_L1xn = np.empty((config.length + 1, i.size), np.int64)
    place_L1xn[0] = origin_n + hashing.below(draw_nxD[:, 1], config.vocab_size)
    place_L1xn[0] *= _SLOTS
    slots = _slots(config)
    for t in range(config.length):
      place_L1xn[t + 1] = slots[place_L1xn[t] + byte_Mxn[t]]
    return (place_L1xn // _SLOTS - origin_n).astype(np.int32).T


@functools.lru_cache(maxsize=4)
def _slots(config: MarkovConfig) -> np.ndarray:
  """Next tokens by topic, token and byte drawn, int64 of shape [Z * V * 256].

  The token v of topic z is written as the place of its own first slot, so that
  a step is one look-up.
  """
  least, most = config.successors
  num_tokens = config.vocab_size
  key_S = hashing.fold(
      hashing.fold(config.seed, _TABLES),
      np.arange(config.num_topics * num_tokens),
  )
  number_S = least + hashing.below(hashing.fold(key_S, 0), most - least + 1)
  order_SxV = hashing.fold(
      hashing.fold(key_S, 1)[:, None], np.arange(num_tokens)
  ).argsort(axis=1)
  draw_SxN = hashing.fold(hashing.fold(key_S, 2)[:, None], np.arange(most))
  weight_SxN = 1 + hashing.below(draw_SxN, _MAX_WEIGHT)
  weight_SxN[np.arange(most) >= number_S[:, None]] = 0
  edge_SxN = np.cumsum(weight_SxN, axis=1)
  edge_SxN = _SLOTS * edge_SxN // edge_SxN[:, -1:]
  count_SxN = np.diff(edge_SxN, axis=1, prepend=0)
  successor = np.repeat(order_SxV[:, :most].ravel(), count_SxN.ravel())
  # All slots of a topic stand together.
  origin_Zx1 = num_tokens * np.arange(config.num_topics)[:, None]
  place_ZxR = origin_Zx1 + successor.reshape(config.num_topics, -1)
  slots = (_SLOTS * place_ZxR).ravel()
  slots.flags.writeable = False
  return slots


kinds.register(
    kinds.Kind('markov', MarkovConfig, MarkovSource.of_splits)
)

"""Two tasks that pull one network in opposite directions; NumPy, by seed."""

from typing import Any, NamedTuple

import numpy as np

# Purposes of random streams: seed s never shares numbers between them.
_NETWORK, _POINTS, _CHAINS = range(3)
# Adam's order of the points is the same for all seeds, whose points differ.
_ORDER_SEED = 20250508


class Points(NamedTuple):
  """Examples of both groups; group 0 is the one fine-tuned on."""

  inputs: np.ndarray  # [2, N, ...]
  targets: np.ndarray  # [2, N, ...]


class Tasks(NamedTuple):
  """What a seed means, for every method."""

  train: Points
  validation: Points
  initial: Any = None  # parameters that both targets were shifted from
  shift: Any = None  # what was added for group 0 and subtracted for group 1


def network_tasks(
    seed: int,
    *,
    inputs: int = 10,
    hidden: int = 20,
    outputs: int = 10,
    train_points: int = 500,
    validation_points: int = 100,
) -> Tasks:
  """Targets from two copies of the initial network, shifted by +mΔ and -mΔ.

  Group 0 has N(1, 0.25²) in the first half of its features and N(0, 0.25²) in
  the others; group 1 the other way round. Δ is a product of two normal
  matrices of rank 3 for matrices and normal for biases, scaled to a number
  drawn evenly from [0.5, 5] times the norm of the parameter, for each
  parameter; m is drawn evenly from [0.1, 1].

  Args:
    seed: >= 0; all of the result follows from it.
    inputs: Features of a point, even.

  Returns:
    Float32 `Tasks`; the network is {'w1', 'b1', 'w2', 'b2'}.

  Example:
    >>> network_tasks(0).train.targets.shape
    (2, 500, 10)

  References:
    arXiv 2505.08727, conflicting experience; its public code.
  """
  rng = np.random.default_rng((seed, _NETWORK))
  initial = {
      **dict(zip(('w1', 'b1'), _linear(rng, inputs, hidden), strict=True)),
      **dict(zip(('w2', 'b2'), _linear(rng, hidden, outputs), strict=True)),
  }
  magnitude = rng.uniform(0.1, 1.0)
  shift = {
      name: magnitude * _direction(rng, value)
      for name, value in initial.items()
  }
  rng = np.random.default_rng((seed, _POINTS))
  count = train_points + validation_points
  x_2xNxI = 0.25 * rng.standard_normal((2, count, inputs))
  x_2xNxI[0, :, : inputs // 2] += 1
  x_2xNxI[1, :, inputs // 2 :] += 1
  y_2xNxO = np.stack([
      network({k: initial[k] + sign * shift[k] for k in initial}, x_NxI)[0]
      for sign, x_NxI in zip((1, -1), x_2xNxI, strict=True)
  ])
  train, validation = _split(x_2xNxI, y_2xNxO, train_points, np.float32)
  to_float32 = lambda tree: {k: v.astype(np.float32) for k, v in tree.items()}
  return Tasks(train, validation, to_float32(initial), to_float32(shift))


def network(params: Any, x_NxI: Any) -> tuple[Any, Any]:
  """Outputs [N, O] and hidden layer [N, D] of the network, NumPy or JAX."""
  h_NxD = (x_NxI @ params['w1'] + params['b1'][None]).clip(min=0)
  return h_NxD @ params['w2'] + params['b2'][None], h_NxD


def token_tasks(
    seed: int,
    *,
    vocab_size: int = 24,
    length: int = 16,
    train_points: int = 2000,
    validation_points: int = 200,
) -> Tasks:
  """Two Markov chains that disagree on the tokens that they share.

  Group 0 uses the first two thirds of the vocabulary, group 1 the last two
  thirds. Every row of a chain is drawn from a Dirichlet distribution with
  concentration 0.2, so after a shared token the two have different rules; the
  tokens before it say which one holds.

  Args:
    seed: >= 0; all of the result follows from it.
    vocab_size: V, a multiple of 3.

  Returns:
    `Tasks` of int32: inputs and targets [2, N, L], targets one token ahead.

  Example:
    >>> token_tasks(0).validation.inputs.shape
    (2, 200, 16)
  """
  rng = np.random.default_rng((seed, _CHAINS))
  own = 2 * vocab_size // 3
  count = train_points + validation_points
  tokens_2xNxT = np.empty((2, count, length + 1), np.int32)
  for group, first in enumerate((0, vocab_size - own)):
    rows_CxC = rng.dirichlet(np.full(own, 0.2), size=own)
    cumulative_CxC = np.cumsum(rows_CxC, axis=1)
    state_N = rng.integers(own, size=count)
    for t in range(length + 1):
      tokens_2xNxT[group, :, t] = state_N + first
      drawn_N = rng.random(count)
      later_NxC = drawn_N[:, None] > cumulative_CxC[state_N]
      state_N = np.minimum(later_NxC.sum(axis=1), own - 1)
  return Tasks(*_split(
      tokens_2xNxT[..., :-1], tokens_2xNxT[..., 1:], train_points, np.int32
  ))


def batch_order(
    num_updates: int,
    micro_batches: int,
    batch_size: int,
    points: int,
    *,
    mix: bool,
) -> np.ndarray:
  """Which points each update sees: epochs in random order, cut into batches.

  Args:
    batch_size: B, even if `mix`.
    points: Of each group; group 1 follows group 0.
    mix: Half of every batch from each group; else all from group 0.

  Returns:
    Int32 [K, M, B] in [0, 2 points). A batch that holds the end of one epoch
    and the start of the next may hold a point twice.

  Example:
    >>> batch_order(1, 1, 4, 100, mix=True)[0, 0] // 100
    array([0, 0, 1, 1], dtype=int32)
  """
  rng = np.random.default_rng((_ORDER_SEED, int(mix)))
  groups = 2 if mix else 1
  share = batch_size // groups
  total = num_updates * micro_batches * share
  parts = []
  for group in range(groups):
    epochs = -(-total // points)
    order = np.argsort(rng.random((epochs, points)), axis=1).reshape(-1)
    order = order[:total].reshape(num_updates, micro_batches, share)
    parts.append(order + group * points)
  return np.concatenate(parts, axis=-1).astype(np.int32)


def _linear(rng, fan_in, fan_out):
  """Weights and biases as PyTorch draws them: even in ±1/sqrt(fan_in)."""
  bound = fan_in**-0.5
  weights = rng.uniform(-bound, bound, (fan_in, fan_out))
  return weights, rng.uniform(-bound, bound, fan_out)


def _direction(rng, value):
  if value.ndim == 1:
    delta = rng.standard_normal(value.shape)
  else:
    rank = min(3, *value.shape)
    delta = rng.standard_normal((value.shape[0], rank)) @ rng.standard_normal(
        (rank, value.shape[1])
    )
  scale = rng.uniform(0.5, 5.0)
  return delta * (scale * np.linalg.norm(value) / np.linalg.norm(delta))


def _split(inputs, targets, train_points, dtype):
  inputs, targets = inputs.astype(dtype), targets.astype(dtype)
  return (
      Points(inputs[:, :train_points], targets[:, :train_points]),
      Points(inputs[:, train_points:], targets[:, train_points:]),
  )

"""Floating-point operations by formula.

The compiler's own count sees a scanned body once, so it cannot be used for a
model that loops over layers.
"""

from collections.abc import Callable

from iblm_jax.models import config as model_config
from iblm_jax.models import families


def forward_flops_per_token(
    cfg: families.ModelConfig, length: int
) -> float | None:
  """Counts multiplications and additions of one token of a forward pass.

  Counts the matrix products: projections, MLP, head, and attention over the
  keys that causality and the window leave (half the square, on average). Leaves
  out norms, activations, the softmax and the entropy, as is usual for model
  FLOPs, and the maps of a vector of each sequence or chunk between models. Of a
  memory model, the positions of slots are counted with the tokens.

  Args:
    cfg: The model.
    length: L, tokens in a row.

  Returns:
    FLOPs per token; None for a family that does not say them.

  Example:
    >>> cfg = model_config.gpt2('small')
    >>> round(forward_flops_per_token(cfg, 1024) / 1e6)
    266
  """
  besides = families.family(cfg).flops
  if besides is None:
    return None
  stacks = _of_stacks(cfg, length, blocks_flops_per_token)
  return sum(stacks.values()) + besides(cfg, length)


def _of_stacks(
    cfg: families.ModelConfig,
    length: int,
    of_blocks: Callable[[model_config.DecoderConfig, int], float],
) -> dict[str, float]:
  """Of the blocks of each stack of `families.stacks`, or of a part of them."""
  reads, stacks = families.family(cfg).reads, families.stacks(cfg)
  if reads is None:
    return {name: of_blocks(stack, length) for name, stack in stacks.items()}
  return {
      name: share * of_blocks(stacks[name], positions)
      for name, (share, positions) in reads(cfg, length).items()
  }


def blocks_flops_per_token(
    cfg: model_config.DecoderConfig, length: int
) -> float:
  """Counts the same without the head."""
  d, f, n = cfg.width, cfg.hidden_width, cfg.num_layers
  matrices = 3 if cfg.is_gated else 2
  mlp = 2 * matrices * d * f
  if cfg.mixer is not None:
    # Masked weights are multiplied like others: all L of them.
    kernel, expansion = cfg.mixer.kernel, cfg.mixer.expansion
    maps = 1 if expansion is None else 2 * expansion
    mixing = 2 * d * length * kernel * maps
    if cfg.mixer.num_heads > 1:
      mixing += 2 * 2 * d * d
    return n * (mlp + mixing)
  projected = 2 * (cfg.num_heads + cfg.kv_heads) * cfg.head_width
  return n * (mlp + 2 * d * projected) + _attention_flops_per_token(cfg, length)


def _attention_flops_per_token(
    cfg: model_config.DecoderConfig, length: int
) -> float:
  """Of the products of queries, keys and values, which no weight is part of."""
  if cfg.mixer is not None:
    return 0.0

  def of_layers(count, window):
    # Query t sees min(t + 1, window) keys.
    keys = (window * (window + 1) / 2 + (length - window) * window) / length
    return count * 2 * 2 * cfg.num_heads * cfg.head_width * keys

  full = cfg.num_layers // cfg.full_every if cfg.full_every else 0
  window = length if cfg.window is None else min(cfg.window, length)
  return of_layers(cfg.num_layers - full, window) + of_layers(full, length)


def training_flops_per_token(
    cfg: families.ModelConfig, length: int, frozen: tuple[str, ...] = ()
) -> float | None:
  """Counts one token of a training step: forward, and twice that backwards.

  What the backward pass recomputes (remat) is not counted, as is usual.

  Args:
    cfg: The model.
    length: L, tokens in a row.
    frozen: Stacks of `families.stacks` of which no parameter is trained. One
      that reads tokens alone then has no backward pass; the last one, with the
      head, has no gradients of its weights, but hands that of its inputs on.

  Returns:
    FLOPs per token; None for a family that does not say them.

  Example:
    >>> cfg = model_config.gpt2('small')
    >>> round(training_flops_per_token(cfg, 1024) / 1e6)
    798
  """
  besides = families.family(cfg).flops
  forward = forward_flops_per_token(cfg, length)
  if besides is None or forward is None:
    return None
  total = 3 * forward
  stacks = _of_stacks(cfg, length, blocks_flops_per_token)
  attention = _of_stacks(cfg, length, _attention_flops_per_token)
  *readers, last = families.stacks(cfg) or ['']
  for name in frozen:
    if name in readers:
      total -= 2 * stacks[name]
    elif name == last:
      total -= stacks[name] - attention[name] + besides(cfg, length)
  return total

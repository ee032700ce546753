"""Floating-point operations by formula.

The compiler's own count sees a scanned body once, so it cannot be used for a
model that loops over layers.
"""

from collections.abc import Callable

from iblm_jax.models import config as model_config
from iblm_jax.models import families


def forward_flops_per_token(
    cfg: families.ModelConfig, length: int
) -> float:
  """Multiply-adds counted as two, for one token of a forward pass.

  Counts the matrix products: projections, MLP, head, and attention over the
  keys that causality and the window leave (half the square, on average).
  Norms, activations, the softmax and the entropy are left out, as is usual for
  model FLOPs; so are the maps of a vector of each sequence or chunk between
  models. Of a memory model, the positions of slots are counted with the tokens.

  Args:
    cfg: the model.
    length: L, tokens in a row.

  Returns:
    FLOPs per token.

  Example:
    >>> cfg = model_config.gpt2('small')
    >>> round(forward_flops_per_token(cfg, 1024) / 1e6)
    266
  """
  stacks = _of_stacks(cfg, length, blocks_flops_per_token)
  return sum(stacks.values()) + _of_ends(cfg)


def _of_ends(cfg: families.ModelConfig) -> float:
  """Of the head, and of what a vector is unrolled by."""
  if isinstance(cfg, families.DecoderConfig):
    return 2 * cfg.width * cfg.vocab_size
  head = 2 * cfg.decoder.width * cfg.decoder.vocab_size
  unrolls = getattr(cfg, 'injection', None) == 'unroll'
  return head + (cfg.decoder.width**2 if unrolls else 0)


def _of_stacks(
    cfg: families.ModelConfig,
    length: int,
    of_blocks: Callable[[model_config.DecoderConfig, int], float],
) -> dict[str, float]:
  """Of the blocks of each stack of `families.stacks`, or of a part of them."""
  if isinstance(cfg, families.DecoderConfig):
    return {'': of_blocks(cfg, length)}
  if isinstance(cfg, families.AutoencoderConfig):
    return {
        name: of_blocks(stack, length)
        for name, stack in families.stacks(cfg).items()
    }
  windows = 1 if cfg.is_oracle else cfg.num_chunks
  read = windows * cfg.window / length  # positions of the decoder for a token
  found = {'decoder': read * of_blocks(cfg.decoder, cfg.window)}
  if cfg.is_oracle:
    found['encoder'] = of_blocks(cfg.encoder, length)
  elif cfg.has_encoder:  # all chunks but the last
    share = (cfg.num_chunks - 1) / cfg.num_chunks
    found['encoder'] = share * of_blocks(cfg.encoder, cfg.chunk_length)
  return found


def blocks_flops_per_token(
    cfg: model_config.DecoderConfig, length: int
) -> float:
  """The same without the head."""
  d, f, n = cfg.width, cfg.hidden_width, cfg.num_layers
  matrices = 3 if cfg.activation == 'swiglu' else 2
  mlp = 2 * matrices * d * f
  if cfg.mixer is not None:
    # Masked weights are multiplied like others: all L of them.
    kernel, expansion = cfg.mixer.kernel, cfg.mixer.expansion
    maps = 1 if expansion is None else 2 * expansion
    mixing = 2 * d * length * kernel * maps
    if cfg.mixer.num_heads > 1:
      mixing += 2 * 2 * d * d
    return n * (mlp + mixing)
  return n * (mlp + 2 * 4 * d * d) + _attention_flops_per_token(cfg, length)


def _attention_flops_per_token(
    cfg: model_config.DecoderConfig, length: int
) -> float:
  """Of the products of queries, keys and values, which no weight is part of."""
  if cfg.mixer is not None:
    return 0.0
  window = length if cfg.window is None else min(cfg.window, length)
  # Query t sees min(t + 1, window) keys.
  keys = (window * (window + 1) / 2 + (length - window) * window) / length
  return cfg.num_layers * 2 * 2 * cfg.width * keys


def training_flops_per_token(
    cfg: families.ModelConfig, length: int, frozen: tuple[str, ...] = ()
) -> float:
  """FLOPs of one token of a training step: forward, and twice that backwards.

  What the backward pass recomputes (remat) is not counted, as is usual.

  Args:
    cfg: the model.
    length: L, tokens in a row.
    frozen: stacks of `families.stacks` of which no parameter is trained. A
      frozen encoder has no backward pass; a frozen decoder has no gradients of
      its weights, but hands the one of its inputs on.

  Returns:
    FLOPs per token.

  Example:
    >>> cfg = model_config.gpt2('small')
    >>> round(training_flops_per_token(cfg, 1024) / 1e6)
    798
  """
  total = 3 * forward_flops_per_token(cfg, length)
  stacks = _of_stacks(cfg, length, blocks_flops_per_token)
  if 'encoder' in frozen:
    total -= 2 * stacks['encoder']
  if 'decoder' in frozen:
    attention = _of_stacks(cfg, length, _attention_flops_per_token)
    total -= stacks['decoder'] - attention['decoder'] + _of_ends(cfg)
  return total

"""Floating-point operations by formula.

The compiler's own count sees a scanned body once, so it cannot be used for a
model that loops over layers.
"""

from iblm_jax.models import config as model_config


def forward_flops_per_token(
    cfg: model_config.DecoderConfig, length: int
) -> float:
  """Multiply-adds counted as two, for one token of a forward pass.

  Counts the matrix products: projections, MLP, head, and attention over the
  keys that causality and the window leave (half the square, on average).
  Norms, activations, the softmax and the entropy are left out, as is usual for
  model FLOPs.

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
  d, f, n = cfg.width, cfg.hidden_width, cfg.num_layers
  matrices = 3 if cfg.activation == 'swiglu' else 2
  per_block = 2 * (4 * d * d + matrices * d * f)
  window = length if cfg.window is None else min(cfg.window, length)
  # Query t sees min(t + 1, window) keys.
  keys = (window * (window + 1) / 2 + (length - window) * window) / length
  attention = 2 * 2 * d * keys
  return n * (per_block + attention) + 2 * d * cfg.vocab_size


def training_flops_per_token(
    cfg: model_config.DecoderConfig, length: int
) -> float:
  """FLOPs of one token of a training step: forward, and twice that backwards.

  What the backward pass recomputes (remat) is not counted, as is usual.

  Args:
    cfg: the model.
    length: L, tokens in a row.

  Returns:
    FLOPs per token.

  Example:
    >>> cfg = model_config.gpt2('small')
    >>> round(training_flops_per_token(cfg, 1024) / 1e6)
    798
  """
  return 3 * forward_flops_per_token(cfg, length)

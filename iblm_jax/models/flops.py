"""Floating-point operations by formula.

The compiler's own count sees a scanned body once, so it cannot be used for a
model that loops over layers.
"""

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
  return sum(_of_stacks(cfg, length).values())


def _of_stacks(cfg: families.ModelConfig, length: int) -> dict[str, float]:
  """The same of each stack of `families.stacks`, heads with theirs."""
  head = lambda stack: 2 * stack.width * stack.vocab_size
  if isinstance(cfg, families.DecoderConfig):
    return {'': blocks_flops_per_token(cfg, length) + head(cfg)}
  if isinstance(cfg, families.AutoencoderConfig):
    injected = cfg.decoder.width if cfg.injection == 'unroll' else 0
    decoder = blocks_flops_per_token(cfg.decoder, length) + head(cfg.decoder)
    return {
        'encoder': blocks_flops_per_token(cfg.encoder, length),
        'decoder': decoder + injected * cfg.decoder.width,
    }
  windows = 1 if cfg.is_oracle else cfg.num_chunks
  read = windows * cfg.window / length  # positions of the decoder for a token
  blocks = read * blocks_flops_per_token(cfg.decoder, cfg.window)
  found = {'decoder': blocks + head(cfg.decoder)}
  if cfg.is_oracle:
    found['encoder'] = blocks_flops_per_token(cfg.encoder, length)
  elif cfg.has_encoder:  # all chunks but the last
    share = (cfg.num_chunks - 1) / cfg.num_chunks
    found['encoder'] = share * blocks_flops_per_token(
        cfg.encoder, cfg.chunk_length
    )
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
  window = length if cfg.window is None else min(cfg.window, length)
  # Query t sees min(t + 1, window) keys.
  keys = (window * (window + 1) / 2 + (length - window) * window) / length
  return n * (mlp + 2 * 4 * d * d + 2 * 2 * d * keys)


def training_flops_per_token(
    cfg: families.ModelConfig, length: int, frozen: tuple[str, ...] = ()
) -> float:
  """FLOPs of one token of a training step: forward, and twice that backwards.

  What the backward pass recomputes (remat) is not counted, as is usual.

  Args:
    cfg: the model.
    length: L, tokens in a row.
    frozen: stacks of `families.stacks` of which no parameter is trained. A
      frozen encoder has no backward pass; a frozen decoder takes no gradient of
      its weights, but hands the one of its inputs on.

  Returns:
    FLOPs per token.

  Example:
    >>> cfg = model_config.gpt2('small')
    >>> round(training_flops_per_token(cfg, 1024) / 1e6)
    798
  """
  passes = {'encoder': 1, 'decoder': 2}
  return sum(
      (passes[name] if name in frozen else 3) * forward
      for name, forward in _of_stacks(cfg, length).items()
  )

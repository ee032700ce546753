"""Costs of memories by formula: arithmetic, and bytes held of the past.

Blocks alone are counted, as in `flops`; embeddings and heads are the same
whatever the past is kept as. (arXiv 2602.13466.)
"""

from typing import NamedTuple

from iblm_jax.models import config as model_config
from iblm_jax.models import flops
from iblm_jax.models.memory import config as memory_config

MODES = ('train', 'prefill', 'decode')


class Cost(NamedTuple):
  """FLOPs of a forward pass.

  Attributes:
    encoder: Making memories.
    decoder: Reading windows of slots and tokens.
    full_context: Reading the whole row with the decoder instead.
  """

  encoder: float
  decoder: float
  full_context: float

  @property
  def ratio(self) -> float:
    """FLOPs of both divided by those of the full context."""
    return (self.encoder + self.decoder) / self.full_context


def forward_flops(
    cfg: memory_config.MemoryConfig, mode: str, *, cached: bool = False
) -> Cost:
  """Counts one row, beside a decoder that sees all of it.

  Args:
    cfg: The model, of kind 'parallel' or 'none'.
    mode: 'train' (all windows of a row), 'prefill' (the last chunk of a row as
      a prompt) or 'decode' (the last token of a row).
    cached: Whether memories of past chunks are there already. If not, they are
      made: in 'train' and 'prefill' of all chunks but the last, in 'decode' of
      one, the cost of which its tokens share.

  Returns:
    `Cost`; windows have C + L positions, whatever the layout, of which a mask
    spares nothing. A mixer keeps nothing, so a token costs it a window or row.

  Raises:
    ValueError: The mode or the kind is another.

  Example:
    >>> part = lambda width: model_config.llama(
    ...     8000, num_layers=16, width=width, tie_embeddings=True
    ... )
    >>> cfg = memory_config.MemoryConfig(part(256), part(512), 4, 256)
    >>> round(forward_flops(cfg, 'train').ratio, 2)
    1.11
    >>> round(forward_flops(cfg, 'prefill', cached=True).ratio, 2)
    0.23
  """
  if mode not in MODES:
    raise ValueError(f'mode must be one of {MODES}, got {mode!r}.')
  _check(cfg)
  chunks, tokens = cfg.num_chunks, cfg.chunk_length
  encoded = 0.0
  if not cached and cfg.has_encoder:
    encoded = _row(cfg.encoder, tokens)
    encoded = encoded / tokens if mode == 'decode' else (chunks - 1) * encoded
  if mode == 'decode':
    return Cost(
        encoded, _last(cfg.decoder, cfg.window), _last(cfg.decoder, cfg.length)
    )
  windows = chunks if mode == 'train' else 1
  return Cost(
      encoded,
      windows * _row(cfg.decoder, cfg.window),
      _row(cfg.decoder, cfg.length),
  )


def cache_bytes(
    cfg: model_config.DecoderConfig | memory_config.MemoryConfig,
    batch_size: int,
    length: int | None = None,
) -> int:
  """Counts the bytes that decoding holds of what was read.

  Args:
    cfg: A decoder, which holds keys and values of every token, or a memory
      model of kind 'parallel' or 'none', which holds those of a window, the
      memories, and the tokens of a chunk (int32).
    batch_size: Number of rows.
    length: Tokens of a row of a decoder; None for a memory model.

  Returns:
    Bytes, in the compute dtype.

  Raises:
    ValueError: The kind is another, or a decoder has no length.

  Example:
    >>> cfg = model_config.DecoderConfig(8, num_layers=2, width=16)
    >>> cache_bytes(cfg, batch_size=1, length=10)  # 2 x 2 x 16 x 10 x 4
    2560
  """
  if isinstance(cfg, model_config.DecoderConfig):
    if length is None:
      raise ValueError('length must be given for a decoder, got None.')
    return batch_size * length * _bytes_per_position(cfg)
  _check(cfg)
  part = cfg.decoder
  memory = (cfg.num_chunks - 1) * part.width * part.compute_dtype.itemsize
  window = cfg.window * _bytes_per_position(part)
  return batch_size * (window + memory + 4 * cfg.chunk_length)


def _bytes_per_position(cfg):
  if cfg.mixer is not None:
    return 0
  return 2 * cfg.num_layers * cfg.width * cfg.compute_dtype.itemsize


def _row(cfg, length):
  """Of all positions of a row."""
  return length * flops.blocks_flops_per_token(cfg, length) if length else 0.0


def _last(cfg, length):
  """Of one more position of a row that is kept."""
  if cfg.mixer is not None:
    return _row(cfg, length)
  return _row(cfg, length) - _row(cfg, length - 1)


def _check(cfg):
  if cfg.kind not in ('parallel', 'none'):
    raise ValueError(
        "costs are of memory models of kind 'parallel' or 'none', got"
        f' {cfg.kind!r}.'
    )

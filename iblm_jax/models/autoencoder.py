"""One vector that stands for a whole sequence: encoder, vector, decoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, outputs, reconstruction
from iblm_jax.models.nn import embeddings


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
  """A causal encoder, one vector, and a decoder that makes all tokens at once.

  Attributes:
    encoder: reads the tokens; a transformer or a masked mixer. Its head is
      never used: `tie_embeddings` must be True.
    decoder: makes the tokens; its `vocab_size` must be the encoder's.
    length: L, tokens of a sequence.
    injection: how the vector enters the decoder, see `ReconstructionConfig`.
    compression: r, the vector passes through E / r numbers.
    position: which position of the encoder is the vector, see
      `embeddings.gather`.
    family: 'autoencoder'.

  Raises:
    ValueError: for a value out of its range, or parts that do not fit.
  """

  encoder: model_config.DecoderConfig
  decoder: model_config.DecoderConfig
  length: int
  injection: str = 'unroll'
  compression: int = 1
  position: str = 'last_valid'
  family: str = 'autoencoder'

  def __post_init__(self):
    check_family(self, 'autoencoder')
    check_encoder(self.encoder, self.length)
    if self.decoder.vocab_size != self.encoder.vocab_size:
      raise ValueError(
          'decoder.vocab_size must be that of the encoder,'
          f' {self.encoder.vocab_size}, got {self.decoder.vocab_size}.'
      )
    if self.position not in embeddings.POSITIONS:
      raise ValueError(
          f'position must be one of {embeddings.POSITIONS}, got'
          f' {self.position!r}.'
      )
    _ = self.reconstruction

  @property
  def vocab_size(self) -> int:
    """V, number of tokens."""
    return self.encoder.vocab_size

  @property
  def reconstruction(self) -> reconstruction.ReconstructionConfig:
    """From the vector to the tokens."""
    return reconstruction.ReconstructionConfig(
        self.decoder,
        self.length,
        self.encoder.width,
        self.injection,
        self.compression,
    )


def check_family(cfg: Any, name: str) -> None:
  """ValueError unless a config says the family that it is of."""
  if cfg.family != name:
    raise ValueError(f'family must be {name!r} here, got {cfg.family!r}.')


def check_encoder(encoder: model_config.DecoderConfig, length: int) -> None:
  """ValueError unless a stack can encode sequences of `length` tokens."""
  if not encoder.tie_embeddings:
    raise ValueError(
        'encoder.tie_embeddings must be True: an encoder has no head.'
    )
  if encoder.mixer is not None and encoder.mixer.length < length:
    raise ValueError(
        f'encoder.mixer.length must be at least {length}, got'
        f' {encoder.mixer.length}.'
    )
  if encoder.positions == 'learned' and encoder.max_length < length:
    raise ValueError(
        f'encoder.max_length must be at least {length}, got'
        f' {encoder.max_length}.'
    )


def partitioned_init(rng: jax.Array, cfg: AutoencoderConfig) -> Any:
  """Parameters whose leaves still carry their logical axis names."""
  encoder_rng, decoder_rng = jax.random.split(rng)
  return {
      'encoder': decoder.partitioned_init(encoder_rng, cfg.encoder),
      'decoder': reconstruction.partitioned_init(
          decoder_rng, cfg.reconstruction
      ),
  }


def init(rng: jax.Array, cfg: AutoencoderConfig) -> Any:
  """Fresh parameters: 'encoder' as of a decoder, 'decoder' without tokens."""
  return nn.meta.unbox(partitioned_init(rng, cfg))


def embed(
    params: Any,
    tokens_BxL: jax.Array,
    cfg: AutoencoderConfig,
    *,
    mask: jax.Array | None = None,
    collect: str | None = None,
) -> tuple[jax.Array, outputs.Collected]:
  """The vector of every sequence, [B, E], before any bottleneck.

  Args:
    params: from `init`; 'encoder' is enough.
    tokens_BxL: int [B, L].
    cfg: the model.
    mask: bool [B, L], tokens that are there.
    collect: see `decoder.apply`; of the encoder.

  Returns:
    The vectors, and what was collected.
  """
  h_BxLxE, collected = encode(
      params['encoder'], tokens_BxL, cfg.encoder, mask, collect
  )
  return embeddings.gather(h_BxLxE, mask, cfg.position), collected


def encode(
    params: Any,
    tokens_BxL: jax.Array,
    cfg: model_config.DecoderConfig,
    mask: jax.Array | None,
    collect: str | None = None,
) -> tuple[jax.Array, outputs.Collected]:
  """`decoder.encode` where padding, on whichever side, is never seen."""
  segment_ids = None
  if mask is not None and cfg.mixer is None:
    cfg = dataclasses.replace(cfg, document_mask=True)
    segment_ids = mask.astype(jnp.int32)
  return decoder.encode(
      params,
      tokens_BxL,
      cfg,
      mask=mask,
      segment_ids=segment_ids,
      collect=collect,
  )


def apply(
    params: Any,
    tokens_BxL: jax.Array,
    cfg: AutoencoderConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    collect: str | None = None,
) -> outputs.Outputs:
  """Logits of every token from the one vector that its sequence became.

  Args:
    params: from `init`.
    tokens_BxL: int [B, L].
    cfg: the model, static under jit.
    mask: bool [B, L], tokens that are there; others are not read.
    segment_ids: not used: a row is one sequence.
    positions: not used, likewise.
    collect: see `decoder.apply`; of the encoder.

  Returns:
    `Outputs`: logits[:, t] reproduce token t.

  Raises:
    ValueError: for a sequence of another length.

  Example:
    >>> stack = model_config.llama(8, num_layers=1, width=16, num_heads=2)
    >>> tied = dataclasses.replace(stack, tie_embeddings=True)
    >>> cfg = AutoencoderConfig(tied, stack, length=4)
    >>> tokens_BxL = jnp.zeros([2, 4], jnp.int32)
    >>> run = lambda key: apply(init(key, cfg), tokens_BxL, cfg).logits_BxLxV
    >>> jax.eval_shape(run, jax.random.key(0)).shape
    (2, 4, 8)

  References:
    arXiv 2602.13466.
  """
  del segment_ids, positions
  if tokens_BxL.shape[1:] != (cfg.length,):
    raise ValueError(
        f'tokens_BxL must have shape [B, {cfg.length}], got'
        f' {tokens_BxL.shape}.'
    )
  e_BxE, collected = embed(
      params, tokens_BxL, cfg, mask=mask, collect=collect
  )
  logits_BxLxV = reconstruction.apply(
      params['decoder'], e_BxE, cfg.reconstruction
  )
  return outputs.Outputs(logits_BxLxV, *collected)

"""All tokens of a sequence at once from one vector.

The decoder of an autoencoder, and of a probe that asks what a vector holds. It
never sees a token: what is injected at each position depends on the vector
alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from iblm_jax import fields
from iblm_jax.models import config as model_config
from iblm_jax.models import decoder
from iblm_jax.models.nn import embeddings, layers, stack

INJECTIONS = ('unroll', 'repeat')


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
  """From a vector of E numbers to the logits of L tokens.

  Attributes:
    decoder: Its blocks and head; it embeds no tokens. Learned positions are
      added to what is injected.
    length: L, tokens that are made.
    width_in: E, of the vector.
    injection: 'unroll' (position t sees a window of the vector that begins at
      t) or 'repeat' (every position sees the vector; for mixers, whose
      positions have weights of their own, and for attention with learned
      positions: a mean of equal values is that value, wherever rotary
      embeddings point).
    compression: r, the vector passes through E / r numbers.

  Raises:
    ValueError: A value is out of its range.
  """

  decoder: model_config.DecoderConfig
  length: int = fields.field(low=1, allowed='at least 1')
  width_in: int = model_config.count()
  injection: str = model_config.choice(*INJECTIONS)
  compression: int = 1

  def __post_init__(self):
    fields.check(self)
    if self.decoder.tie_embeddings:
      raise ValueError(
          'decoder.tie_embeddings must be False: it embeds no tokens.'
      )
    model_config.check_length('decoder', self.decoder, self.length)
    mixer, positions = self.decoder.mixer, self.decoder.positions
    if self.injection == 'repeat' and mixer is None and positions != 'learned':
      raise ValueError(
          "injection must be 'unroll' for attention without learned positions,"
          ' which makes the same of every position that sees the same, got'
          f" 'repeat' with decoder.positions={positions!r}."
      )
    _ = self.passage

  @property
  def passage(self) -> embeddings.Passage:
    """How the vector gets to the width of the decoder."""
    return embeddings.Passage(
        self.width_in, self.decoder.width, self.compression
    )


def unroll_index(length: int, width: int) -> np.ndarray:
  """Gives the features in the window of each position: (t + j) mod D.

  The index is int [L, D // 2]; windows differ while L <= D.

  >>> unroll_index(3, 4).tolist()
  [[0, 1], [1, 2], [2, 3]]
  """
  t = np.arange(length)[:, None] + np.arange(width // 2)[None]
  return t % width


class Inject(nn.Module):
  """From [B, E] to the inputs of the decoder, [B, L, D]."""

  cfg: ReconstructionConfig

  @nn.compact
  def __call__(self, e_BxE: jax.Array) -> jax.Array:
    """Every position from the vector alone."""
    cfg, width = self.cfg, self.cfg.decoder.width
    e_BxD = embeddings.Pass(cfg.decoder, cfg.passage, name='passage')(e_BxE)
    if cfg.injection == 'repeat':
      return jnp.repeat(e_BxD[:, None], cfg.length, axis=1)
    windows_BxLxW = e_BxD[:, unroll_index(cfg.length, width)]
    biased = dataclasses.replace(cfg.decoder, biases=True)
    return layers.Linear(
        biased, (width // 2, width), ('mlp', 'embed'), name='unroll'
    )(windows_BxLxW)


def partitioned_init(rng: jax.Array, cfg: ReconstructionConfig) -> Any:
  """Makes parameters whose leaves still carry their logical axis names."""
  inject_rng, decoder_rng = jax.random.split(rng)
  params = dict(decoder.partitioned_init(decoder_rng, cfg.decoder))
  tables = params.pop('embed')
  if cfg.decoder.positions == 'learned':
    params['embed'] = {'positions': tables['positions']}
  e_BxE = jnp.zeros([1, cfg.width_in], cfg.decoder.compute_dtype)
  inject = Inject(cfg).init(inject_rng, e_BxE).get('params', {})
  return {'inject': inject, **params}


def init(rng: jax.Array, cfg: ReconstructionConfig) -> Any:
  """Makes fresh parameters.

  Example:
    >>> stack = model_config.llama(8, num_layers=1, width=16, num_heads=2)
    >>> cfg = ReconstructionConfig(stack, length=4, width_in=32)
    >>> params = jax.eval_shape(lambda key: init(key, cfg), jax.random.key(0))
    >>> sorted(params), params['inject']['unroll']['kernel'].shape
    (['blocks', 'head', 'inject'], (8, 16))
  """
  return nn.meta.unbox(partitioned_init(rng, cfg))


def apply(
    params: Any, e_BxE: jax.Array, cfg: ReconstructionConfig
) -> jax.Array:
  """Computes the logits of the tokens that vectors [B, E] stand for.

  Returns:
    float32 [B, L, V]; logits[:, t] are those of token t.

  References:
    arXiv 2602.13466, and the injections of its public code.
  """
  x_BxLxD = layers.call(Inject(cfg), params['inject'], e_BxE)
  if cfg.decoder.positions == 'learned':
    x_BxLxD = x_BxLxD + params['embed']['positions'][None, : cfg.length]
  x_BxLxD = x_BxLxD.astype(cfg.decoder.compute_dtype)
  x_BxLxD = nn.with_logical_constraint(
      x_BxLxD, ('batch', 'length', 'residual')
  )
  x_BxLxD, _ = stack.run(params, x_BxLxD, cfg.decoder)
  return decoder.head(params, x_BxLxD, cfg.decoder)

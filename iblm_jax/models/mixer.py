"""The masked mixer family: a decoder that mixes positions by learned weights.

Blocks, ends and loop are the decoder's; only what lets tokens see each other
differs, and that is `cfg.mixer`. Weights belong to pairs of positions, so a
mixer has a longest length, needs no position embeddings and cannot keep the
documents of a row apart.
"""

from typing import Any

import jax

from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, outputs

DecoderConfig = model_config.DecoderConfig


def init(rng: jax.Array, cfg: DecoderConfig) -> decoder.Params:
  """Fresh parameters, as of `decoder.init`.

  Args:
    rng: a PRNG key.
    cfg: the model, with a `mixer`.

  Returns:
    A nested dict of float32 arrays.

  Raises:
    ValueError: for a config without a mixer.

  Example:
    >>> cfg = model_config.mixer(8, 4, num_layers=2, width=16)
    >>> params = jax.eval_shape(lambda key: init(key, cfg), jax.random.key(0))
    >>> params['blocks']['mixer']['mix'].shape  # layers, heads, to, from, K
    (2, 1, 4, 4, 1)
  """
  return decoder.init(rng, _checked(cfg))


def logical_axes(cfg: DecoderConfig) -> Any:
  """Logical axis names of every parameter: `init`'s tree of PartitionSpecs."""
  return decoder.logical_axes(_checked(cfg))


def apply(
    params: decoder.Params,
    tokens_BxL: jax.Array,
    cfg: DecoderConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    collect: str | None = None,
) -> outputs.Outputs:
  """Logits of the next token at every position.

  Args:
    params: from `init`.
    tokens_BxL: int [B, L] in [0, V), L <= cfg.mixer.length.
    cfg: the model, with a `mixer`; static under jit.
    mask: bool [B, L], the valid tokens; others are not mixed in, and are left
      out of the entropy.
    segment_ids: int [B, L], of the entropy alone: tokens see all before them.
    positions: not used: a position is where a token stands in its row.
    collect: see `decoder.apply`.

  Returns:
    `Outputs`: logits[:, t] predict token t + 1.

  Raises:
    ValueError: for a config without a mixer, a sequence longer than its
      weights, and see `decoder.apply`.

  References:
    arXiv 2409.01482; arXiv 2602.13466.
  """
  return decoder.apply(
      params,
      tokens_BxL,
      _checked(cfg),
      mask=mask,
      segment_ids=segment_ids,
      positions=positions,
      collect=collect,
  )


def _checked(cfg):
  if cfg.mixer is None:
    raise ValueError('mixer must be a MixerConfig here, got None.')
  return cfg

"""The masked mixer family: a decoder that mixes positions by learned weights.

Blocks, embeddings, head and loop are the decoder's; only what lets tokens see
each other differs, and that is `cfg.mixer`. Weights belong to pairs of
positions, so a mixer has a longest length, needs no position embeddings and
cannot keep the documents of a row apart.
"""

from typing import Any

import jax

from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, outputs

DecoderConfig = model_config.DecoderConfig


def init(rng: jax.Array, cfg: DecoderConfig) -> decoder.Params:
  """Makes fresh parameters, as `decoder.init` does.

  Raises:
    ValueError: The config has no `mixer`.

  Example:
    >>> cfg = model_config.mixer(8, 4, num_layers=2, width=16)
    >>> params = jax.eval_shape(lambda key: init(key, cfg), jax.random.key(0))
    >>> params['blocks']['mixer']['mix'].shape  # layers, heads, to, from, K
    (2, 1, 4, 4, 1)
  """
  return decoder.init(rng, _checked(cfg))


def logical_axes(cfg: DecoderConfig) -> Any:
  """Gives the logical axis names of every parameter, as PartitionSpecs."""
  return decoder.logical_axes(_checked(cfg))


def apply(
    params: decoder.Params,
    tokens_BxL: jax.Array,
    cfg: DecoderConfig,
    **options: Any,
) -> outputs.Outputs:
  """Computes the logits of the next token at every position.

  Args:
    params: From `init`.
    tokens_BxL: int [B, L] in [0, V), L <= cfg.mixer.length.
    cfg: The model, with a `mixer`; static under jit.
    **options: As of `decoder.apply`. Tokens that `mask` leaves out are not
      mixed in; `segment_ids` are those of the entropy alone; `positions` are
      not used: a position is where a token stands in its row.

  Returns:
    `Outputs`: logits[:, t] predict token t + 1.

  Raises:
    ValueError: The config has no mixer, a sequence is longer than its weights,
      or see `decoder.apply`.

  References:
    arXiv 2409.01482; arXiv 2602.13466.
  """
  return decoder.apply(params, tokens_BxL, _checked(cfg), **options)


def _checked(cfg):
  if cfg.mixer is None:
    raise ValueError('mixer must be a MixerConfig here, got None.')
  return cfg

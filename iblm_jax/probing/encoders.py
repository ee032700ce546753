"""Frozen encoders: what a probe reads of a model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from iblm_jax.models import families
from iblm_jax.models.nn import embeddings

# (params, tokens_BxL, mask_BxL) -> [B, E]
Embed = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Encoder(NamedTuple):
  """A frozen function from sequences to vectors.

  Attributes:
    embed: Maps (params, tokens_BxL, mask_BxL) to [B, E] of any floating dtype;
      pure.
    params: The first argument of `embed`.
    vocab_size: Tokens are in 0..vocab_size-1.
  """

  embed: Embed
  params: Any
  vocab_size: int


def of_model(
    model: families.ModelConfig,
    params: Any,
    position: str | int | None = None,
    block: int | None = None,
) -> Encoder:
  """Makes an encoder of a model, its own token embeddings included.

  Behind a bottleneck, the vector is what passes the bottleneck. Of a memory
  model the encoder of its chunks is read.

  Args:
    model: The config, of any family.
    params: The parameters of the model.
    position: The position whose state is the vector, see `embeddings.gather`,
      or its number from 0; None is the one that the model itself reads, the
      last valid one for a decoder.
    block: Reads the residual stream after this block, from 0; None reads what
      the model itself makes of its last one, such as what a decoder's head
      reads.

  Raises:
    ValueError: The position or the block is unknown, or the model encodes
      nothing.
  """
  place = position
  if place is None:
    place = getattr(model, 'position', 'last_valid')
  if place not in embeddings.POSITIONS and (
      not isinstance(place, int) or place < 0
  ):
    raise ValueError(
        f'position must be one of {embeddings.POSITIONS} or a number from 0,'
        f' got {position!r}.'
    )
  families.encoder(model)  # raises
  if block is not None:
    _check_block(model, block)

  def embed(params, tokens_BxL, mask_BxL):
    if block is None:
      h_BxLxE = families.encode(params, tokens_BxL, model, mask_BxL)
    else:
      hidden = families.apply(
          params, tokens_BxL, model, mask=mask_BxL, collect='hidden'
      ).hidden
      assert hidden is not None  # `families.apply` checks it
      h_BxLxE = hidden[block]
    if not isinstance(place, int):
      e_BxE = embeddings.gather(h_BxLxE, mask_BxL, place)
    elif place < h_BxLxE.shape[1]:
      e_BxE = h_BxLxE[:, place]
    else:
      raise ValueError(
          f'position must be below the {h_BxLxE.shape[1]} tokens of a'
          f' sequence, got {place}.'
      )
    return e_BxE if block is not None else families.narrowed(
        params, e_BxE, model
    )

  return Encoder(embed, params, model.vocab_size)


def _check_block(model: families.ModelConfig, block: int) -> None:
  known, count = families.family(model), families.num_layers(model)
  if known.encoder is not None:
    raise ValueError(
        f'block must be None for the family {known.name!r}, of which one vector'
        f' is read, got {block}.'
    )
  if not 0 <= block < count:
    raise ValueError(
        f'block must be in 0..{count - 1}, the blocks of the model, got'
        f' {block}.'
    )

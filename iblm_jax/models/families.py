"""Model families: a record says all that programs need to know of one.

Every program finds what it needs of a model through the record of its config's
class. A family of one's own is such a record in a file of one's own, given to
`register`; no other file has to know it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
from flax import linen as nn

from iblm_jax import tagged
from iblm_jax.information import entropy as entropy_lib
from iblm_jax.models import config as model_config
from iblm_jax.models import outputs
from iblm_jax.models.nn import attention, partition_specs

DecoderConfig = model_config.DecoderConfig


class ModelConfig(Protocol):
  """Options of a model: a frozen dataclass, hashable and of JSON types.

  Besides `vocab_size`, a config may have `num_layers` (layers whose states
  `apply` collects; without it no entropy can be measured), `entropy` (an
  `EntropyConfig`, how that is measured) and `position` (which position of
  `encode` is an embedding).
  """

  @property
  def vocab_size(self) -> int:
    """V, number of tokens."""
    ...


class Lengths(NamedTuple):
  """Numbers of tokens that fit a model; None for any.

  Attributes:
    fixed: Tokens that every row must have.
    longest: Most tokens of a row; None where `fixed` says it.
    measured: Tokens of a row of the layers that are measured; None where
      `fixed` says it, or where they are those of the data.
  """

  fixed: int | None = None
  longest: int | None = None
  measured: int | None = None


class Sampler(Protocol):
  """A module that continues prompts, such as `generation.decoding`."""

  def check_sampling(
      self, cfg: Any, prompt_length: int, num_tokens: int, *,
      temperature: float, top_k: int | None,
  ) -> None:
    """Raises ValueError for arguments that `sample` cannot use."""
    ...

  def sample(
      self, params: Any, prompt_BxT: jax.Array, cfg: Any, rng: jax.Array, *,
      num_tokens: int, temperature: float, top_k: int | None,
      allowed_V: jax.Array | None,
  ) -> jax.Array:
    """Returns the continuations, int32 [B, num_tokens]."""
    ...


@dataclasses.dataclass(frozen=True)
class Family:
  """All that programs need to know of a model family.

  The first four fields are enough: such a model trains, is evaluated,
  generates, is probed and certified. Functions take the config as `cfg`.

  Attributes:
    name: What `model.family` says in config files.
    config: Class of its configs, see `ModelConfig`.
    init: `(key, cfg) -> params`, a tree of float32 arrays. Leaves boxed by
      `flax.linen.with_logical_partitioning` are split over a mesh by the names
      of their axes; others are on every device.
    apply: `(params, tokens_BxL, cfg, *, mask, segment_ids, positions, collect)
      -> Outputs`, see `models.apply`. It may always return the hidden states
      of its layers, [N, B, L, D]: what `collect` asks for is made of them.
    label: `cfg -> name` of a kind within the family, for results and pages.
    stacks: `cfg -> {field: DecoderConfig}`, the stacks of blocks that a model
      is made of, '' for the config itself; the last has the head. What is done
      to such stacks (sizes checked against a mesh, paths of attention, FLOPs)
      is then done to these.
    lengths: `cfg -> Lengths`.
    reproduces: Whether logits[:, t] are of token t, instead of the next one.
    is_causal: `cfg -> bool`, whether logits see no later tokens.
    encoder: `cfg -> config` of the part that is read for embeddings; raises
      ValueError where a model has none.
    encode: `(params, tokens_BxL, cfg, mask) -> h_BxLxE`, states that an
      embedding is taken from. None takes the last of the hidden states.
    narrowed: `(params, e_BxE, cfg) -> e_BxE'`, what a bottleneck of the model
      leaves of embeddings; None if it has no bottleneck.
    flops: `(cfg, length) -> float`, FLOPs of a forward pass for one token of a
      row, beside those of the blocks of `stacks`. None if they are not known;
      then no utilisation is reported.
    reads: `(cfg, length) -> {stack: (share, positions)}`: how many positions
      of a stack there are for one token of a row, and how many see each other.
      None if each stack reads the row.
    sampler: `cfg -> Sampler`; raises ValueError for a model that cannot
      generate. None computes the whole row again for every token.
  """

  name: str
  config: type
  init: Callable[..., Any]
  apply: Callable[..., outputs.Outputs]
  label: Callable[[Any], str] | None = None
  stacks: Callable[[Any], Mapping[str, DecoderConfig]] | None = None
  lengths: Callable[[Any], Lengths] | None = None
  reproduces: bool = False
  is_causal: Callable[[Any], bool] | None = None
  encoder: Callable[[Any], Any] | None = None
  encode: Callable[..., jax.Array] | None = None
  narrowed: Callable[..., jax.Array] | None = None
  flops: Callable[[Any, int], float] | None = None
  reads: Callable[[Any, int], Mapping[str, tuple[float, int]]] | None = None
  sampler: Callable[[Any], Sampler] | None = None


_FAMILIES: dict[str, Family] = {}
# How config files name the families; without a name they mean a decoder.
UNION = tagged.Union(
    'family',
    lambda: {name: known.config for name, known in _FAMILIES.items()},
    default='decoder',
)


def register(family: Family) -> Family:
  """Makes a family known to every program.

  Args:
    family: Its record. Registering the same record again changes nothing.

  Returns:
    The record.

  Raises:
    ValueError: The name or the class of configs belongs to another family, or
      the class is no frozen dataclass.

  Example:
    >>> register(registered()['decoder']).name
    'decoder'
  """
  cls = family.config
  for other in _FAMILIES.values():
    if other == family:
      return family
    if other.name == family.name or other.config is cls:
      raise ValueError(
          f'family {family.name!r} with configs {cls.__name__} collides with'
          f' family {other.name!r} with configs {other.config.__name__}.'
      )
  params = getattr(cls, '__dataclass_params__', None)
  if params is None or not params.frozen:  # jit needs its hash
    raise ValueError(f'config must be a frozen dataclass, got {cls!r}.')
  _FAMILIES[family.name] = family
  return family


def registered() -> dict[str, Family]:
  """Gives the records of all families, by name.

  Example:
    >>> list(registered())[:3]
    ['decoder', 'autoencoder', 'memory']
  """
  return dict(_FAMILIES)


def family(cfg: ModelConfig) -> Family:
  """Finds the record of a config's family.

  Raises:
    ValueError: No family has configs of this class.

  Example:
    >>> family(DecoderConfig(8)).name
    'decoder'
  """
  for known in _FAMILIES.values():
    if type(cfg) is known.config:
      return known
  raise ValueError(
      f'model must be of a registered family {tuple(_FAMILIES)}, got'
      f' {type(cfg).__name__}.'
  )


def init(key: jax.Array, cfg: ModelConfig) -> Any:
  """Makes fresh parameters of a model of any family.

  Args:
    key: A PRNG key.
    cfg: The model.

  Returns:
    A nested dict of float32 arrays.

  Example:
    >>> cfg = DecoderConfig(vocab_size=8, num_layers=2, width=16)
    >>> jax.eval_shape(lambda key: init(key, cfg), jax.random.key(0))['embed']
    {'tokens': ShapeDtypeStruct(shape=(8, 16), dtype=float32)}
  """
  return nn.meta.unbox(family(cfg).init(key, cfg))


def apply(
    params: Any,
    tokens_BxL: jax.Array,
    cfg: ModelConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    collect: str | None = None,
) -> outputs.Outputs:
  """Computes the logits of a model of any family.

  Args:
    params: From `init`.
    tokens_BxL: int [B, L] in [0, V).
    cfg: The model; static under jit.
    mask: bool [B, L], the valid tokens; None for all.
    segment_ids: int [B, L], the document of each token; None for one.
    positions: int [B, L], the position of each token in its document; None for
      0 .. L - 1.
    collect: None, 'hidden' (states after every layer), 'entropy' (their
      matrix-based entropy alone) or 'entropy_and_norm' (and the log of their
      norm).

  Returns:
    `Outputs`. logits[:, t] predict token t + 1 (of an autoencoder: token t).

  Raises:
    ValueError: Shapes do not fit, or `collect` is unknown.

  Example:
    >>> cfg = DecoderConfig(vocab_size=8, num_layers=2, width=16)
    >>> tokens_BxL = jax.numpy.zeros([1, 5], int)
    >>> run = lambda key: apply(init(key, cfg), tokens_BxL, cfg).logits_BxLxV
    >>> jax.eval_shape(run, jax.random.key(0)).shape
    (1, 5, 8)
  """
  found = family(cfg).apply(
      params,
      tokens_BxL,
      cfg,
      mask=mask,
      segment_ids=segment_ids,
      positions=positions,
      collect=collect,
  )
  outputs.check(
      found, collect, tokens_BxL, cfg.vocab_size, num_layers(cfg),
      f'apply of family {family(cfg).name!r}',
  )
  return outputs.of_hidden(
      found, collect, entropy_of(cfg), mask=mask, segment_ids=segment_ids
  )


def shapes(cfg: ModelConfig) -> Any:
  """Gives shapes and dtypes of the parameters that `init` makes.

  Example:
    >>> cfg = DecoderConfig(8, num_layers=2, width=16)
    >>> shapes(cfg)['blocks']['mlp']['up']['kernel'].shape
    (2, 16, 64)
  """
  return partition_specs.shapes(family(cfg).init, cfg)


def logical_axes(cfg: ModelConfig) -> Any:
  """Gives the logical axis names of every parameter, as PartitionSpecs."""
  return partition_specs.logical_axes(family(cfg).init, cfg)


def name(cfg: ModelConfig) -> str:
  """Names a model's family, or its kind: a decoder may be a 'mixer'."""
  known = family(cfg)
  return known.label(cfg) if known.label else known.name


def the_decoder(cfg: ModelConfig, purpose: str) -> DecoderConfig:
  """Gives the config, where it is a decoder's.

  Raises:
    ValueError: It is of another family; the message names the purpose.
  """
  if not isinstance(cfg, DecoderConfig):
    raise ValueError(
        f'{purpose} needs a model of the family decoder, got'
        f' {type(cfg).__name__}.'
    )
  return cfg


def check_predicts_next(cfg: ModelConfig, purpose: str) -> None:
  """Raises ValueError unless a model predicts tokens that it has not seen."""
  known = family(cfg)
  is_causal = known.is_causal is None or known.is_causal(cfg)
  if known.reproduces or not is_causal:
    raise ValueError(
        f'{purpose} needs a model that predicts next tokens, got the family'
        f' {known.name!r} whose logits have seen them.'
    )


def stacks(cfg: ModelConfig) -> Mapping[str, DecoderConfig]:
  """Gives a model's stacks of blocks by the name of their field."""
  known = family(cfg)
  return {} if known.stacks is None else known.stacks(cfg)


def measured(cfg: ModelConfig) -> Any:
  """Gives the config of the layers that `apply` collects from."""
  return next(iter(stacks(cfg).values()), cfg)


def num_layers(cfg: ModelConfig) -> int:
  """Counts the layers that are measured; 0 where none is."""
  return getattr(measured(cfg), 'num_layers', 0)


def entropy_of(cfg: ModelConfig) -> entropy_lib.EntropyConfig:
  """Says how the entropy of a model's layers is measured."""
  return getattr(measured(cfg), 'entropy', entropy_lib.EntropyConfig())


def resolve_attention(cfg: Any, platform: str) -> Any:
  """Replaces the attention 'auto' by the path of a platform."""

  def resolved(part):
    path = attention.resolve(part.attention, platform, part.compute_dtype)
    return dataclasses.replace(part, attention=path)

  parts = {name: resolved(part) for name, part in stacks(cfg).items()}
  return parts.get('') or dataclasses.replace(cfg, **parts)


def lengths(cfg: ModelConfig) -> Lengths:
  """Gives the numbers of tokens that fit a model."""
  known = family(cfg)
  found = Lengths() if known.lengths is None else known.lengths(cfg)
  either = lambda value: found.fixed if value is None else value
  return Lengths(found.fixed, either(found.longest), either(found.measured))


def encoder(cfg: ModelConfig) -> Any:
  """Gives the config of the part whose states are embeddings.

  Raises:
    ValueError: The model has no such part.
  """
  known = family(cfg)
  return cfg if known.encoder is None else known.encoder(cfg)


def encode(
    params: Any, tokens_BxL: jax.Array, cfg: ModelConfig, mask: jax.Array | None
) -> jax.Array:
  """Computes the states [B, L, E] that a model's embeddings are taken from.

  Tokens that `mask`, bool [B, L], leaves out are not read. Of a decoder the
  states are what the head reads.

  Raises:
    ValueError: The model has no encoder, or its states cannot be read.
  """
  known = family(cfg)
  encoder(cfg)  # raises
  if known.encode is not None:
    return known.encode(params, tokens_BxL, cfg, mask)
  found = apply(params, tokens_BxL, cfg, mask=mask, collect='hidden')
  if found.hidden is None:
    raise ValueError(
        f'the states of the family {known.name!r} cannot be read: its record'
        ' has no `encode`, and `apply` returns no hidden states.'
    )
  return found.hidden[-1]


def narrowed(params: Any, e_BxE: jax.Array, cfg: ModelConfig) -> jax.Array:
  """Gives what of embeddings [B, E] passes a model's bottleneck, or all."""
  known = family(cfg)
  return e_BxE if known.narrowed is None else known.narrowed(params, e_BxE, cfg)

"""Options of decoders and masked mixers, and their presets."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from iblm_jax import fields
from iblm_jax.information import entropy as entropy_lib
from iblm_jax.models.config_parts import (
  MixerConfig,
  RotaryScaling,
  choice,
  count,
)

_cap = functools.partial(
    fields.field, None, above=0, allowed='> 0 or None'
)


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """A causal stack of blocks: a transformer, or a masked mixer.

  Attributes:
    vocab_size: V, number of tokens.
    num_layers: N.
    width: D, of the residual stream.
    num_heads: H; the width must be a multiple of it, unless head_dim is given.
    num_kv_heads: G, heads of keys and values, each for H / G heads of queries
      (arXiv 2305.13245); None means H.
    head_dim: K, width of a head; None means D / H.
    mlp_width: F, hidden width of the MLP; None means 4 D (8/3 D, rounded up to
      a multiple of 64, for gated ones, which have three matrices).
    max_length: Tokens of the longest sequence; size of learned positions.
    norm: 'rms' or 'layer'.
    norm_scale: Whether norms have a learned scale.
    norm_plus_one: Whether what norms learn is their scale less one.
    norm_epsilon: Added to the mean square that a norm divides by.
    output_norms: Normalises what attention and the MLP add to the stream too.
    embedding_scale: Multiplies the embeddings of tokens.
    embedding_norm: Normalises the embeddings before the first block.
    positions: 'rotary', 'learned' or 'none'.
    rotary_base: Wavelength base of the rotary embedding.
    rotary_share: Share of each head that is rotated, its first features.
    rotary_scaling: Stretches the wavelengths; None leaves them.
    window_rotary_base: The base in layers with a window, where no wavelength is
      stretched; None treats all layers alike.
    activation: 'gelu' (by tanh), 'relu2' (squared ReLU), 'swiglu' (a gate of
      SiLU), 'gelu_exact' (by erf) or 'geglu' (a gate of 'gelu').
    qk_norm: RMS-normalises queries and keys.
    qk_norm_scale: Whether that norm has a learned scale and `norm_epsilon`.
    attention_width: Scores are divided by its square root; None means K.
    attention_softcap: c of `c * tanh(scores / c)`; None for no cap.
    logit_softcap: The same for logits.
    tie_embeddings: Uses the token embedding as the output head.
    biases: Whether linear maps (and layer norm) have biases.
    qkv_biases: The same for queries, keys and values; None means `biases`.
    out_biases: The same for the output of attention; None means `biases`.
    mlp_biases: The same for the MLP; None means `biases`.
    parallel_residual: The MLP reads what attention reads, not its output too.
    window: Tokens a query may look back to, itself included; None is all.
    full_every: Every so manieth layer has no window; None means no layer.
    document_mask: Tokens attend only within their own document.
    value_residual: Mixes the first block's values into those of all others.
    embedding_residual: The input of every block is a learned mix of the
      residual stream and the embeddings, at first the stream alone.
    unet_skips: Adds block i's output to the input of block N - 1 - i.
    zero_init_outputs: Starts attention and MLP outputs (and an untied head) at
      zero.
    dtype: Of activations and matrix products; parameters are float32.
    remat: What the backward pass recomputes: 'none', 'full' (all of a block) or
      'dots' (all but matrix products).
    scan_layers: Compiles one block and loops; False unrolls the loop.
    mixer: Mixes positions by learned weights; None attends.
    attention: 'auto' (the fused kernel where the backend has one), 'xla',
      'blocked' (the CPU's best), 'cudnn' or 'splash' (TPU).
    entropy: How the entropy of the residual stream is measured.

  Raises:
    ValueError: A value is outside its range, or two do not fit together.
  """

  vocab_size: int = count()
  num_layers: int = count(4)
  width: int = count(128)
  num_heads: int = count(4)
  num_kv_heads: int | None = count(None)
  head_dim: int | None = count(None)
  mlp_width: int | None = count(None)
  max_length: int = count(1024)
  norm: str = choice('rms', 'layer')
  norm_scale: bool = True
  norm_plus_one: bool = False
  norm_epsilon: float = fields.field(1e-6, above=0, below=1)
  output_norms: bool = False
  embedding_scale: float = fields.field(1.0, above=0)
  embedding_norm: bool = False
  positions: str = choice('rotary', 'learned', 'none')
  rotary_base: float = 10_000.0
  rotary_share: float = fields.field(1.0, above=0, high=1)
  rotary_scaling: RotaryScaling | None = None
  window_rotary_base: float | None = fields.field(None, above=0)
  activation: str = choice('gelu', 'relu2', 'swiglu', 'gelu_exact', 'geglu')
  qk_norm: bool = False
  qk_norm_scale: bool = False
  attention_width: float | None = fields.field(None, above=0)
  attention_softcap: float | None = _cap()
  logit_softcap: float | None = _cap()
  tie_embeddings: bool = False
  biases: bool = False
  qkv_biases: bool | None = None
  out_biases: bool | None = None
  mlp_biases: bool | None = None
  parallel_residual: bool = False
  window: int | None = count(None)
  full_every: int | None = count(None)
  document_mask: bool = True
  value_residual: bool = False
  embedding_residual: bool = False
  unet_skips: bool = False
  zero_init_outputs: bool = False
  dtype: str = choice('float32', 'bfloat16')
  remat: str = choice('none', 'full', 'dots')
  scan_layers: bool = True
  mixer: MixerConfig | None = None
  attention: str = choice('auto', 'xla', 'blocked', 'cudnn', 'splash')
  entropy: entropy_lib.EntropyConfig = entropy_lib.EntropyConfig()

  def __post_init__(self):
    fields.check(self)
    if self.head_dim is None and self.width % self.num_heads:
      raise ValueError(
          'width must be a multiple of num_heads, got'
          f' width={self.width}, num_heads={self.num_heads}.'
      )
    if self.num_heads % self.kv_heads:
      raise ValueError(
          'num_heads must be a multiple of num_kv_heads, got'
          f' num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}.'
      )
    if self.qk_norm_scale and not self.qk_norm:
      raise ValueError('qk_norm_scale needs qk_norm=True, got False.')
    for name, other in (
        ('full_every', 'window'), ('window_rotary_base', 'full_every')
    ):
      if getattr(self, name) is not None and getattr(self, other) is None:
        raise ValueError(
            f'{name}={getattr(self, name)} needs {other}, got None.'
        )
    turned = self.rotary_width
    if self.positions == 'rotary' and (turned % 2 or not turned):
      raise ValueError(
          'rotary positions need an even head width, got'
          f' {turned} (width={self.width}, num_heads={self.num_heads},'
          f' rotary_share={self.rotary_share}).'
      )
    if self.mixer is not None:
      self._check_mixer(self.mixer)
    if self.unet_skips and self.num_layers % 2:
      raise ValueError(
          'unet_skips needs an even num_layers, got'
          f' num_layers={self.num_layers}.'
      )

  def _check_mixer(self, mixer: MixerConfig):
    if self.width % mixer.num_heads:
      raise ValueError(
          'width must be a multiple of mixer.num_heads, got'
          f' width={self.width}, mixer.num_heads={mixer.num_heads}.'
      )
    for name, allowed in (
        ('positions', 'none'), ('document_mask', False), ('window', None),
        ('value_residual', False), ('qk_norm', False),
        ('parallel_residual', False), ('num_kv_heads', None),
        ('head_dim', None), ('attention_width', None),
        ('attention_softcap', None),
    ):
      if getattr(self, name) != allowed:
        raise ValueError(
            f'{name} must be {allowed!r} with a mixer, which has no attention,'
            f' got {getattr(self, name)!r}.'
        )

  @property
  def head_width(self) -> int:
    """Dh, width of one attention head."""
    return self.head_dim or self.width // self.num_heads

  @property
  def kv_heads(self) -> int:
    """G, heads of keys and values."""
    return self.num_kv_heads or self.num_heads

  @property
  def rotary_width(self) -> int:
    """Features of a head that are rotated."""
    return int(self.head_width * self.rotary_share)

  @property
  def is_gated(self) -> bool:
    """Whether the MLP has a gate, a third matrix."""
    return self.activation in ('swiglu', 'geglu')

  @property
  def hidden_width(self) -> int:
    """F, hidden width of the MLP."""
    if self.mlp_width is not None:
      return self.mlp_width
    if self.is_gated:
      return -(-8 * self.width // (3 * 64)) * 64
    return 4 * self.width

  @property
  def compute_dtype(self) -> jnp.dtype:
    """The dtype of activations."""
    return jnp.dtype(self.dtype)


def check_length(
    name: str, stack: DecoderConfig, length: int, what: str = ''
) -> None:
  """Raises ValueError where a stack has too few positions for a row.

  Args:
    name: The field that holds the stack.
    stack: Its options.
    length: Positions that are needed.
    what: What they are, for the message.
  """
  if stack.mixer is not None:
    field, most = 'mixer.length', stack.mixer.length
  elif stack.positions == 'learned':
    field, most = 'max_length', stack.max_length
  else:
    return
  if most < length:
    raise ValueError(
        f'{name}.{field} must be at least {length},{what} got {most}.'
    )


_GPT2_SIZES = {
    'small': dict(num_layers=12, width=768, num_heads=12),
    'medium': dict(num_layers=24, width=1024, num_heads=16),
    'large': dict(num_layers=36, width=1280, num_heads=20),
    'xl': dict(num_layers=48, width=1600, num_heads=25),
}


def gpt2(size: str = 'small', **overrides: Any) -> DecoderConfig:
  """Makes a GPT-2: layer norm, learned positions, GELU, biases, tied head.

  Args:
    size: 'small' (124 M parameters), 'medium' (355 M), 'large' (774 M) or 'xl'
      (1.56 B).
    **overrides: Fields of `DecoderConfig` to replace.

  Raises:
    ValueError: The size is unknown.

  Example:
    >>> gpt2('xl').head_width
    64

  References:
    Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
  """
  fixed: dict[str, Any] = dict(
      vocab_size=50_257,
      max_length=1024,
      norm='layer',
      norm_epsilon=1e-5,
      positions='learned',
      activation='gelu',
      tie_embeddings=True,
      biases=True,
      document_mask=False,
  )
  return DecoderConfig(**{**fixed, **_size(size), **overrides})


def modded_gpt(size: str = 'small', **overrides: Any) -> DecoderConfig:
  """Makes the decoder that arXiv 2505.08727 pre-trains on FineWeb.

  No biases, RMS norm without scale, rotary positions, QK-norm, squared ReLU,
  value and embedding residuals, U-net skips, soft-capped logits, outputs that
  start at zero; heads of 128 in the small size.

  Args:
    size: As in `gpt2`; here the small size has 6 heads.
    **overrides: Fields of `DecoderConfig` to replace.

  Raises:
    ValueError: The size is unknown.

  Example:
    >>> modded_gpt('small').head_width
    128
  """
  fixed: dict[str, Any] = dict(
      vocab_size=50_304,
      max_length=32_768,
      norm='rms',
      norm_scale=False,
      embedding_norm=True,
      positions='rotary',
      activation='relu2',
      qk_norm=True,
      logit_softcap=30.0,
      value_residual=True,
      embedding_residual=True,
      unet_skips=True,
      zero_init_outputs=True,
      dtype='bfloat16',
  )
  heads: dict[str, Any] = {'num_heads': 6} if size == 'small' else {}
  return DecoderConfig(**{**fixed, **_size(size), **heads, **overrides})


def llama(vocab_size: int, **overrides: Any) -> DecoderConfig:
  """Makes a Llama: RMS norm, rotary positions, SwiGLU of 4 D, no biases.

  A layer has 16 D^2 parameters; `overrides` are fields of `DecoderConfig`.

  Example:
    >>> llama(64, width=32).hidden_width
    128

  References:
    arXiv 2602.13466, which takes these blocks for its transformers.
  """
  fixed: dict[str, Any] = dict(
      norm='rms', positions='rotary', activation='swiglu', document_mask=False
  )
  cfg = DecoderConfig(vocab_size, **{**fixed, **overrides})
  if 'mlp_width' in overrides:
    return cfg
  return dataclasses.replace(cfg, mlp_width=4 * cfg.width)


def mixer(vocab_size: int, length: int, **overrides: Any) -> DecoderConfig:
  """Makes a masked mixer: layer norm, GELU, biases, no positions.

  Args:
    vocab_size: V.
    length: Tokens of the longest sequence.
    **overrides: Fields of `MixerConfig` ('num_heads', 'kernel', 'expansion') or
      of `DecoderConfig` to replace.

  Example:
    >>> mixer(64, 16, width=32, num_heads=4).mixer
    MixerConfig(length=16, num_heads=4, kernel=1, expansion=None)

  References:
    arXiv 2409.01482; arXiv 2602.13466.
  """
  names = ('num_heads', 'kernel', 'expansion')
  mixing = {k: overrides.pop(k) for k in names if k in overrides}
  fixed: dict[str, Any] = dict(
      norm='layer',
      norm_epsilon=1e-5,
      positions='none',
      activation='gelu',
      biases=True,
      document_mask=False,
      num_heads=1,
      mixer=MixerConfig(length, **mixing),
  )
  return DecoderConfig(vocab_size, **{**fixed, **overrides})


def _size(size: str) -> dict[str, Any]:
  if size not in _GPT2_SIZES:
    raise ValueError(f'size must be one of {tuple(_GPT2_SIZES)}, got {size!r}.')
  return _GPT2_SIZES[size]


PRESETS = {
    **{f'gpt2_{size}': gpt2(size) for size in _GPT2_SIZES},
    **{f'modded_{size}': modded_gpt(size) for size in _GPT2_SIZES},
}

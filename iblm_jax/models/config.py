"""Options of the decoder family and its presets."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from iblm_jax.information import entropy as entropy_lib
from iblm_jax.models import mixer_config

_CHOICES = {
    'norm': ('rms', 'layer'),
    'positions': ('rotary', 'learned', 'none'),
    'activation': ('gelu', 'relu2', 'swiglu'),
    'dtype': ('float32', 'bfloat16'),
    'remat': ('none', 'full', 'dots'),
    'attention': ('auto', 'xla', 'blocked', 'cudnn', 'splash'),
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """A causal stack of blocks: a transformer, or a masked mixer.

  Attributes:
    vocab_size: V, number of tokens.
    num_layers: N.
    width: D, of the residual stream.
    num_heads: H; the width must be a multiple of it.
    mlp_width: F, hidden width of the MLP; None means 4 D (8/3 D, rounded up to
      a multiple of 64, for SwiGLU, which has three matrices).
    max_length: longest sequence, in tokens; size of learned positions.
    norm: 'rms' or 'layer'.
    norm_scale: whether norms have a learned scale.
    norm_epsilon: added to the mean square that a norm divides by.
    embedding_norm: normalise the embeddings before the first block.
    positions: 'rotary', 'learned' or 'none'.
    rotary_base: wavelength base of the rotary embedding.
    activation: 'gelu', 'relu2' (squared ReLU) or 'swiglu'.
    qk_norm: RMS-normalise queries and keys.
    logit_softcap: c of `c * tanh(logits / c)`; None for no cap.
    tie_embeddings: use the token embedding as the output head.
    biases: whether linear maps (and layer norm) have biases.
    window: tokens a query may look back to, itself included; None is all.
    document_mask: tokens attend only within their own document.
    value_residual: mix the first block's values into those of all others.
    embedding_residual: every block's input is a learned mix of the residual
      stream and the embeddings, at first the stream alone.
    unet_skips: add block i's output to the input of block N - 1 - i.
    zero_init_outputs: start attention and MLP outputs (and an untied head) at
      zero.
    dtype: of activations and matrix products; parameters are float32.
    remat: what the backward pass recomputes: 'none', 'full' (all of a block) or
      'dots' (all but matrix products).
    scan_layers: compile one block and loop; False unrolls the loop.
    mixer: mix positions by learned weights instead of attention; None attends.
    attention: 'auto' (the fused kernel where the backend has one), 'xla',
      'blocked' (the CPU's best), 'cudnn' or 'splash' (TPU).
    entropy: how the entropy of the residual stream is measured.

  Raises:
    ValueError: for a value outside its range, naming field and value.
  """

  vocab_size: int
  num_layers: int = 4
  width: int = 128
  num_heads: int = 4
  mlp_width: int | None = None
  max_length: int = 1024
  norm: str = 'rms'
  norm_scale: bool = True
  norm_epsilon: float = 1e-6
  embedding_norm: bool = False
  positions: str = 'rotary'
  rotary_base: float = 10_000.0
  activation: str = 'gelu'
  qk_norm: bool = False
  logit_softcap: float | None = None
  tie_embeddings: bool = False
  biases: bool = False
  window: int | None = None
  document_mask: bool = True
  value_residual: bool = False
  embedding_residual: bool = False
  unet_skips: bool = False
  zero_init_outputs: bool = False
  dtype: str = 'float32'
  remat: str = 'none'
  scan_layers: bool = True
  mixer: mixer_config.MixerConfig | None = None
  attention: str = 'auto'
  entropy: entropy_lib.EntropyConfig = entropy_lib.EntropyConfig()

  def __post_init__(self):
    for name in ('vocab_size', 'num_layers', 'width', 'num_heads'):
      _at_least_one(name, getattr(self, name))
    _at_least_one('max_length', self.max_length)
    for name in ('mlp_width', 'window'):
      if getattr(self, name) is not None:
        _at_least_one(name, getattr(self, name))
    for name, choices in _CHOICES.items():
      if getattr(self, name) not in choices:
        raise ValueError(
            f'{name} must be one of {choices}, got {getattr(self, name)!r}.'
        )
    if self.width % self.num_heads:
      raise ValueError(
          'width must be a multiple of num_heads, got'
          f' width={self.width}, num_heads={self.num_heads}.'
      )
    if self.positions == 'rotary' and self.head_width % 2:
      raise ValueError(
          'rotary positions need an even head width, got'
          f' {self.head_width} (width={self.width}, '
          f'num_heads={self.num_heads}).'
      )
    if self.mixer is not None:
      self._check_mixer(self.mixer)
    if not 0 < self.norm_epsilon < 1:
      raise ValueError(
          f'norm_epsilon must be between 0 and 1, got {self.norm_epsilon}.'
      )
    if self.logit_softcap is not None and self.logit_softcap <= 0:
      raise ValueError(
          f'logit_softcap must be > 0 or None, got {self.logit_softcap}.'
      )
    if self.unet_skips and self.num_layers % 2:
      raise ValueError(
          'unet_skips needs an even num_layers, got'
          f' num_layers={self.num_layers}.'
      )

  def _check_mixer(self, mixer: mixer_config.MixerConfig):
    if self.width % mixer.num_heads:
      raise ValueError(
          'width must be a multiple of mixer.num_heads, got'
          f' width={self.width}, mixer.num_heads={mixer.num_heads}.'
      )
    for name, allowed in (
        ('positions', 'none'), ('document_mask', False), ('window', None),
        ('value_residual', False), ('qk_norm', False),
    ):
      if getattr(self, name) != allowed:
        raise ValueError(
            f'{name} must be {allowed!r} with a mixer, which has no attention,'
            f' got {getattr(self, name)!r}.'
        )

  @property
  def head_width(self) -> int:
    """Dh, width of one attention head."""
    return self.width // self.num_heads

  @property
  def hidden_width(self) -> int:
    """F, hidden width of the MLP."""
    if self.mlp_width is not None:
      return self.mlp_width
    if self.activation == 'swiglu':
      return -(-8 * self.width // (3 * 64)) * 64
    return 4 * self.width

  @property
  def compute_dtype(self) -> jnp.dtype:
    """The dtype of activations."""
    return jnp.dtype(self.dtype)


def _at_least_one(name: str, value: int) -> None:
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ValueError(f'{name} must be an integer >= 1, got {value!r}.')


_GPT2_SIZES = {
    'small': dict(num_layers=12, width=768, num_heads=12),
    'medium': dict(num_layers=24, width=1024, num_heads=16),
    'large': dict(num_layers=36, width=1280, num_heads=20),
    'xl': dict(num_layers=48, width=1600, num_heads=25),
}


def gpt2(size: str = 'small', **overrides) -> DecoderConfig:
  """GPT-2: layer norm, learned positions, GELU, biases, tied head.

  Args:
    size: 'small' (124 M parameters), 'medium' (355 M), 'large' (774 M) or 'xl'
      (1.56 B).
    **overrides: fields of `DecoderConfig` to replace.

  Returns:
    The config.

  Raises:
    ValueError: for an unknown size.

  Example:
    >>> gpt2('xl').head_width
    64

  References:
    Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
  """
  fields: dict[str, Any] = dict(
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
  return DecoderConfig(**{**fields, **_size(size), **overrides})


def modded_gpt(size: str = 'small', **overrides) -> DecoderConfig:
  """The decoder that arXiv 2505.08727 pre-trains on FineWeb.

  No biases, RMS norm without scale, rotary positions, QK-norm, squared ReLU,
  value and embedding residuals, U-net skips, soft-capped logits, outputs that
  start at zero; heads of 128 in the small size.

  Args:
    size: as in `gpt2`; here the small size has 6 heads.
    **overrides: fields of `DecoderConfig` to replace.

  Returns:
    The config.

  Raises:
    ValueError: for an unknown size.

  Example:
    >>> modded_gpt('small').head_width
    128
  """
  fields: dict[str, Any] = dict(
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
  return DecoderConfig(**{**fields, **_size(size), **heads, **overrides})


def llama(vocab_size: int, **overrides) -> DecoderConfig:
  """Llama-style blocks: RMS norm, rotary positions, SwiGLU of 4 D, no biases.

  Args:
    vocab_size: V.
    **overrides: fields of `DecoderConfig` to replace.

  Returns:
    The config; 16 D^2 parameters a layer.

  Example:
    >>> llama(64, width=32).hidden_width
    128

  References:
    arXiv 2602.13466, which takes these blocks for its transformers.
  """
  fields: dict[str, Any] = dict(
      norm='rms',
      positions='rotary',
      activation='swiglu',
      document_mask=False,
  )
  cfg = DecoderConfig(vocab_size, **{**fields, **overrides})
  if 'mlp_width' in overrides:
    return cfg
  return dataclasses.replace(cfg, mlp_width=4 * cfg.width)


def mixer(vocab_size: int, length: int, **overrides) -> DecoderConfig:
  """The masked mixer: layer norm, GELU, biases, no positions.

  Args:
    vocab_size: V.
    length: longest sequence, in tokens.
    **overrides: fields of `MixerConfig` ('num_heads', 'kernel', 'expansion') or
      of `DecoderConfig` to replace.

  Returns:
    The config.

  Example:
    >>> mixer(64, 16, width=32, num_heads=4).mixer
    MixerConfig(length=16, num_heads=4, kernel=1, expansion=None)

  References:
    arXiv 2409.01482; arXiv 2602.13466.
  """
  names = ('num_heads', 'kernel', 'expansion')
  mixing = {k: v for k, v in overrides.items() if k in names}
  rest = {k: v for k, v in overrides.items() if k not in names}
  fields: dict[str, Any] = dict(
      norm='layer',
      norm_epsilon=1e-5,
      positions='none',
      activation='gelu',
      biases=True,
      document_mask=False,
      num_heads=1,
      mixer=mixer_config.MixerConfig(length, **mixing),
  )
  return DecoderConfig(vocab_size, **{**fields, **rest})


def _size(size: str) -> dict[str, Any]:
  if size not in _GPT2_SIZES:
    raise ValueError(f'size must be one of {tuple(_GPT2_SIZES)}, got {size!r}.')
  return _GPT2_SIZES[size]


PRESETS = {
    **{f'gpt2_{size}': gpt2(size) for size in _GPT2_SIZES},
    **{f'modded_{size}': modded_gpt(size) for size in _GPT2_SIZES},
}

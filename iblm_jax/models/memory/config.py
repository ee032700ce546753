"""Options of the memory models."""

import dataclasses

from iblm_jax.models import autoencoder
from iblm_jax.models import config as model_config
from iblm_jax.models.nn import embeddings

# How much of the past a chunk sees, and from where.
KINDS = (
    'parallel', 'none', 'recurrent', 'oracle_token', 'oracle_add',
    'oracle_embedding',
)


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
  """A causal decoder of chunks that sees the past as one vector a chunk.

  Attributes:
    encoder: makes the vectors; its head is never used, so `tie_embeddings` must
      be True. Not read where there is none: kinds 'none' and 'recurrent'.
    decoder: reads slots and tokens.
    num_chunks: C, chunks of a row.
    chunk_length: L, tokens of a chunk.
    kind: 'parallel' (a vector for each past chunk, all encoded at once), 'none'
      (the same windows without memories), 'recurrent' (one vector that the
      decoder itself hands from chunk to chunk), or an oracle that encodes the
      whole row, future included: its vector is an input before the tokens
      ('oracle_token'), is added to each of them ('oracle_add') or stands beside
      each of them ('oracle_embedding').
    layout: of 'parallel', 'fixed' (memories from the first slot on, tokens of
      every chunk begin at position C), 'variable' (as if empty slots were not
      there: they begin at position c + 1) or 'recent' (memories up to the last
      slot, so that the chunk before this one is always at the same place).
    empty: of 'parallel', slots of chunks that are not past: 'masked', or one
      'learned' vector that is seen ('variable' has none of them to see).
    compression: r, vectors pass through E / r numbers.
    position: which position of the encoder is the vector, see
      `embeddings.gather`.
    family: 'memory'.

  Raises:
    ValueError: for a value out of its range, or parts that do not fit.
  """

  encoder: model_config.DecoderConfig
  decoder: model_config.DecoderConfig
  num_chunks: int
  chunk_length: int
  kind: str = 'parallel'
  layout: str = 'fixed'
  empty: str = 'masked'
  compression: int = 1
  position: str = 'last_valid'
  family: str = 'memory'

  def __post_init__(self):
    autoencoder.check_family(self, 'memory')
    for name, choices in (
        ('kind', KINDS),
        ('layout', ('fixed', 'variable', 'recent')),
        ('empty', ('masked', 'learned')),
        ('position', embeddings.POSITIONS),
    ):
      if getattr(self, name) not in choices:
        raise ValueError(
            f'{name} must be one of {choices}, got {getattr(self, name)!r}.'
        )
    for name, low in (('num_chunks', 2), ('chunk_length', 1)):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f'{name} must be an integer >= {low}, got {value!r}.')
    if self.encoder.vocab_size != self.decoder.vocab_size:
      raise ValueError(
          'encoder.vocab_size must be that of the decoder,'
          f' {self.decoder.vocab_size}, got {self.encoder.vocab_size}.'
      )
    self._check_positions()
    if self.has_encoder:
      autoencoder.check_encoder(
          self.encoder, self.length if self.is_oracle else self.chunk_length
      )
    mixer = self.decoder.mixer
    if mixer is not None:
      if mixer.length < self.window:
        raise ValueError(
            f'decoder.mixer.length must be at least {self.window}, slots and'
            f' tokens, got {mixer.length}.'
        )
      if self.layout == 'variable':
        raise ValueError(
            "layout must be 'fixed' for a mixer, whose weights belong to"
            " positions, got 'variable'."
        )
    if self.layout == 'variable':
      self._check_variable()
    if self.kind == 'oracle_embedding':
      if self.decoder.tie_embeddings:
        raise ValueError(
            'decoder.tie_embeddings must be False: token embeddings are'
            ' narrower than the decoder where a vector stands beside them.'
        )
      if self.passage.width_out >= self.decoder.width:
        raise ValueError(
            'decoder.width must be more than the width of the compressed'
            f' vector beside each token, {self.passage.width_out}, got'
            f' {self.decoder.width}.'
        )
    else:
      _ = self.passage

  def _check_variable(self):
    if self.empty != 'masked':
      raise ValueError(
          "empty must be 'masked' with the layout 'variable', which has no"
          f' empty slots to see, got {self.empty!r}.'
      )
    if self.decoder.window is not None:
      raise ValueError(
          "decoder.window must be None with the layout 'variable': it would"
          f' count empty slots, got {self.decoder.window}.'
      )

  def _check_positions(self):
    """Learned positions are those of a window of slots and tokens."""
    if self.decoder.positions != 'learned':
      return
    if self.kind not in ('parallel', 'none') or self.layout == 'variable':
      raise ValueError(
          "decoder.positions must be 'rotary' or 'none' but for kinds"
          " 'parallel' and 'none' in the layouts 'fixed' and 'recent', got"
          f" 'learned' for {self.kind!r}, {self.layout!r}."
      )
    if self.decoder.max_length < self.window:
      raise ValueError(
          f'decoder.max_length must be at least {self.window}, slots and'
          f' tokens, got {self.decoder.max_length}.'
      )

  @property
  def vocab_size(self) -> int:
    """V, number of tokens."""
    return self.decoder.vocab_size

  @property
  def length(self) -> int:
    """T, tokens of a row."""
    return self.num_chunks * self.chunk_length

  @property
  def is_oracle(self) -> bool:
    """Whether the memory is of the whole row."""
    return self.kind.startswith('oracle')

  @property
  def has_encoder(self) -> bool:
    """Whether another stack than the decoder makes the memories."""
    return self.kind not in ('none', 'recurrent')

  @property
  def window(self) -> int:
    """Positions of the decoder at once: slots and tokens."""
    match self.kind:
      case 'parallel' | 'none':
        return self.num_chunks + self.chunk_length
      case 'recurrent':
        return 2 + self.chunk_length  # read, tokens, write
      case 'oracle_token':
        return 1 + self.length
    return self.length

  @property
  def passage(self) -> embeddings.Passage:
    """How a vector gets from the encoder into the decoder."""
    source = self.encoder if self.has_encoder else self.decoder
    way = embeddings.Passage(
        source.width, self.decoder.width, self.compression
    )
    if self.kind != 'oracle_embedding':
      return way
    return embeddings.Passage(
        source.width, source.width // self.compression
    )

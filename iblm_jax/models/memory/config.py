"""Options of the memory models."""

import dataclasses

from iblm_jax import fields
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
    encoder: Makes the vectors. It has no head: `tie_embeddings` must be True.
      It is not read by the kinds 'none' and 'recurrent'.
    decoder: Reads slots and tokens.
    num_chunks: C, chunks of a row.
    chunk_length: L, tokens of a chunk.
    kind: 'parallel' (a vector for each past chunk, all encoded at once), 'none'
      (the same windows without memories), 'recurrent' (one vector that the
      decoder itself hands from chunk to chunk), or an oracle that encodes the
      whole row, future included: its vector is an input before the tokens
      ('oracle_token'), is added to each of them ('oracle_add') or stands beside
      each of them ('oracle_embedding').
    layout: Of 'parallel': 'fixed' (memories from the first slot on, tokens of
      every chunk begin at position C), 'variable' (as if empty slots were not
      there: they begin at position c + 1) or 'recent' (memories up to the last
      slot, so that the chunk before this one is always at the same place).
    empty: Of 'parallel', slots of chunks that are not past: 'masked', or one
      'learned' vector that is seen ('variable' has none of them to see).
    compression: r; vectors pass through E / r numbers.
    position: Which position of the encoder is the vector, see
      `embeddings.gather`.
    family: 'memory'.

  Raises:
    ValueError: A value is out of its range, or the parts do not fit.
  """

  encoder: model_config.DecoderConfig
  decoder: model_config.DecoderConfig
  num_chunks: int = fields.field(low=2, allowed='an integer >= 2')
  chunk_length: int = model_config.count()
  kind: str = model_config.choice(*KINDS)
  layout: str = model_config.choice('fixed', 'variable', 'recent')
  empty: str = model_config.choice('masked', 'learned')
  compression: int = 1
  position: str = model_config.choice(*embeddings.POSITIONS)
  family: str = fields.field(
      'memory', choices=('memory',), allowed="'memory' here"
  )

  def __post_init__(self):
    fields.check(self)
    if self.encoder.vocab_size != self.decoder.vocab_size:
      raise ValueError(
          'encoder.vocab_size must be that of the decoder,'
          f' {self.decoder.vocab_size}, got {self.encoder.vocab_size}.'
      )
    is_variable = self.layout == 'variable'
    if self.decoder.positions == 'learned' and (
        is_variable or self.kind not in ('parallel', 'none')
    ):
      raise ValueError(
          "decoder.positions must be 'rotary' or 'none' but for kinds"
          " 'parallel' and 'none' in the layouts 'fixed' and 'recent', got"
          f" 'learned' for {self.kind!r}, {self.layout!r}."
      )
    model_config.check_length(
        'decoder', self.decoder, self.window, ' slots and tokens,'
    )
    if self.has_encoder:
      autoencoder.check_encoder(
          self.encoder, self.length if self.is_oracle else self.chunk_length
      )
    if is_variable and self.decoder.mixer is not None:
      raise ValueError(
          "layout must be 'fixed' for a mixer, whose weights belong to"
          " positions, got 'variable'."
      )
    if is_variable and self.empty != 'masked':
      raise ValueError(
          "empty must be 'masked' with the layout 'variable', which has no"
          f' empty slots to see, got {self.empty!r}.'
      )
    if is_variable and self.decoder.window is not None:
      raise ValueError(
          "decoder.window must be None with the layout 'variable': it would"
          f' count empty slots, got {self.decoder.window}.'
      )
    passage = self.passage  # raises
    if self.kind != 'oracle_embedding':
      return
    if self.decoder.tie_embeddings:
      raise ValueError(
          'decoder.tie_embeddings must be False: token embeddings are'
          ' narrower than the decoder where a vector stands beside them.'
      )
    if passage.width_out >= self.decoder.width:
      raise ValueError(
          'decoder.width must be more than the width of the compressed'
          f' vector beside each token, {passage.width_out}, got'
          f' {self.decoder.width}.'
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
  def reader(self) -> model_config.DecoderConfig:
    """The decoder within windows, whose masks are not those of documents."""
    is_masked = self.decoder.mixer is None
    return dataclasses.replace(self.decoder, document_mask=is_masked)

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

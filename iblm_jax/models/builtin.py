"""The records of the families of this library."""

from iblm_jax.models import autoencoder, decoder, families
from iblm_jax.models.generation import decoding, memory_decoding
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import model as memory
from iblm_jax.models.nn import embeddings


def _decoder_lengths(cfg):
  if cfg.mixer is not None:
    return families.Lengths(longest=cfg.mixer.length)
  if cfg.positions == 'learned':
    return families.Lengths(longest=cfg.max_length)
  return families.Lengths()


def _decoder_sampler(cfg):
  if cfg.mixer is not None:
    raise ValueError(
        "sampling needs a model of the family decoder or memory, got 'mixer'."
    )
  return decoding


def _no_sampler(cfg):
  raise ValueError(
      f'sampling needs a model of the family decoder or memory, got'
      f' {cfg.family!r}.'
  )


def _encode_part(params, tokens_BxL, cfg, mask):
  return autoencoder.encode(params['encoder'], tokens_BxL, cfg.encoder, mask)[0]


def _head_flops(cfg, length):
  del length
  return 2 * cfg.width * cfg.vocab_size


def _autoencoder_flops(cfg, length):
  unroll = cfg.decoder.width**2 if cfg.injection == 'unroll' else 0
  return _head_flops(cfg.decoder, length) + unroll


def _memory_stacks(cfg):
  if cfg.has_encoder:
    return {'encoder': cfg.encoder, 'decoder': cfg.decoder}
  return {'decoder': cfg.decoder}


def _memory_lengths(cfg):
  measured = cfg.window
  if cfg.has_encoder:
    measured = cfg.length if cfg.is_oracle else cfg.chunk_length
  return families.Lengths(cfg.length, cfg.length, measured)


def _memory_encoder(cfg):
  if not cfg.has_encoder:
    raise ValueError(
        f'a memory model of kind {cfg.kind!r} has no encoder to read.'
    )
  return cfg.encoder


def _memory_reads(cfg, length):
  windows = 1 if cfg.is_oracle else cfg.num_chunks
  reads = {'decoder': (windows * cfg.window / length, cfg.window)}
  if cfg.is_oracle:
    reads['encoder'] = (1, length)
  elif cfg.has_encoder:  # all chunks but the last
    share = (cfg.num_chunks - 1) / cfg.num_chunks
    reads['encoder'] = (share, cfg.chunk_length)
  return reads


DECODER = families.register(
    families.Family(
        name='decoder',
        config=decoder.DecoderConfig,
        init=decoder.partitioned_init,
        apply=decoder.apply,
        label=lambda cfg: 'decoder' if cfg.mixer is None else 'mixer',
        stacks=lambda cfg: {'': cfg},
        lengths=_decoder_lengths,
        encode=lambda *args: autoencoder.encode(*args)[0],
        flops=_head_flops,
        sampler=_decoder_sampler,
    )
)
AUTOENCODER = families.register(
    families.Family(
        name='autoencoder',
        config=autoencoder.AutoencoderConfig,
        init=autoencoder.partitioned_init,
        apply=autoencoder.apply,
        stacks=lambda cfg: {'encoder': cfg.encoder, 'decoder': cfg.decoder},
        lengths=lambda cfg: families.Lengths(fixed=cfg.length),
        reproduces=True,
        is_causal=lambda cfg: False,
        encoder=lambda cfg: cfg.encoder,
        encode=_encode_part,
        narrowed=lambda params, e_BxE, cfg: embeddings.narrowed(
            params['decoder']['inject'].get('passage', {}), e_BxE
        ),
        flops=_autoencoder_flops,
        sampler=_no_sampler,
    )
)
MEMORY = families.register(
    families.Family(
        name='memory',
        config=memory_config.MemoryConfig,
        init=memory.partitioned_init,
        apply=memory.apply,
        stacks=_memory_stacks,
        lengths=_memory_lengths,
        is_causal=lambda cfg: not cfg.is_oracle,
        encoder=_memory_encoder,
        encode=_encode_part,
        narrowed=lambda params, e_BxE, cfg: embeddings.narrowed(
            params.get('passage', {}), e_BxE
        ),
        flops=lambda cfg, length: _head_flops(cfg.decoder, length),
        reads=_memory_reads,
        sampler=lambda cfg: memory_decoding,
    )
)

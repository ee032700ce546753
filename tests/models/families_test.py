import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from iblm_jax import models
from iblm_jax.information import entropy
from iblm_jax.models import autoencoder, builtin, decoder, families
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.nn import embeddings, layers

ROWS, LENGTH = 2, 12  # 3 chunks of 4 in memory models


def autoencode(stack, **rest):
  make = (
      (lambda **fields: tiny_models.mixer(LENGTH, **fields))
      if stack == 'mixer'
      else tiny_models.transformer
  )
  return autoencoder.AutoencoderConfig(
      make(tie_embeddings=True), make(), LENGTH, **rest
  )


CONFIGS = {
    'decoder': tiny_models.transformer(),
    'mixer': tiny_models.mixer(LENGTH, num_heads=2),
    'autoencoder': autoencode('transformer', compression=2),
    'autoencoder_mixer': autoencode('mixer', injection='repeat'),
    **{
        f'memory_{kind}': tiny_models.memory(kind, compression=2)
        for kind in memory_config.KINDS
    },
    'memory_mixer': tiny_models.memory(stack='mixer'),
}


@pytest.fixture(params=list(CONFIGS))
def cfg(request):
  return CONFIGS[request.param]


def in_bfloat16(cfg):
  if isinstance(cfg, models.DecoderConfig):
    return dataclasses.replace(cfg, dtype='bfloat16')
  parts = {
      part: in_bfloat16(getattr(cfg, part)) for part in ('encoder', 'decoder')
  }
  return dataclasses.replace(cfg, **parts)


def traced(cfg, collect, mask=None):
  tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
  return jax.eval_shape(
      lambda params, tokens: models.apply(
          params, tokens, cfg, mask=mask, collect=collect
      ),
      families.shapes(cfg),
      tokens,
  )


def test_shapes_are_those_of_init_and_every_dimension_has_a_name(cfg):
  params = families.shapes(cfg)
  made = jax.eval_shape(
      lambda key: models.init(key, cfg), jax.random.key(0)
  )
  assert params == made
  axes = families.logical_axes(cfg)
  is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)
  ranks = jax.tree.map(lambda leaf: leaf.ndim, params)
  assert ranks == jax.tree.map(len, axes, is_leaf=is_spec)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('f4')}


# Rows, positions and width of what each model's measured stack reads.
_READ = {
    'memory_parallel': (ROWS * 2, 4, 8),  # all chunks but the last
    'memory_mixer': (ROWS * 2, 4, 8),
    'memory_none': (ROWS * 3, 3 + 4, 8),
    'memory_recurrent': (ROWS * 3, 1 + 4 + 1, 8),
}


@pytest.mark.parametrize('name', list(CONFIGS))
def test_what_is_collected(name):
  cfg = CONFIGS[name]
  hidden = (2, *_READ.get(name, (ROWS, LENGTH, 8)))
  expected = {
      None: {},
      'hidden': dict(hidden=hidden),
      'entropy': dict(entropy=(2,)),
      'entropy_and_norm': dict(entropy=(2,), log_norm=(2,)),
  }
  for collect, fields in expected.items():
    mask = None if collect is None else np.ones([ROWS, LENGTH], bool)
    outputs = traced(cfg, collect, mask)
    assert outputs.logits_BxLxV.shape == (ROWS, LENGTH, tiny_models.VOCAB)
    assert outputs.logits_BxLxV.dtype == jnp.float32
    found = outputs._asdict()
    del found['logits_BxLxV']
    found = {key: leaf.shape for key, leaf in found.items() if leaf is not None}
    assert found == fields
    if collect == 'hidden':
      assert families.lengths(cfg).measured in (None, outputs.hidden.shape[2])
      assert families.measured(cfg).width == outputs.hidden.shape[3]
  rounded = traced(in_bfloat16(cfg), 'hidden')
  assert rounded.logits_BxLxV.dtype == jnp.float32
  assert rounded.hidden.dtype == jnp.bfloat16


@pytest.mark.parametrize('name', ['memory_parallel', 'memory_recurrent'])
def test_entropy_is_that_of_the_streams(name):
  """Of a model without padding, where its layers are collected whole."""
  cfg = CONFIGS[name]
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(ROWS, LENGTH)

  @jax.jit
  def run(params):
    apply = lambda collect: models.apply(
        params, tokens, cfg, collect=collect
    )
    hidden, measured = apply('hidden').hidden, apply('entropy_and_norm')
    of_streams = [entropy.patch_entropy(h, patch_size=2) for h in hidden]
    return jnp.stack(of_streams), hidden, measured

  of_streams, hidden, measured = run(params)
  if name == 'memory_recurrent':  # the mean over chunks, each a batch
    hidden = np.asarray(hidden).reshape(2, ROWS, 3, -1)
    log_rms = 0.5 * np.log(np.mean(hidden**2, axis=(1, 3))).mean(axis=1)
  else:
    log_rms = 0.5 * np.log(np.mean(np.square(hidden), axis=(1, 2, 3)))
  np.testing.assert_allclose(measured.entropy, of_streams, rtol=1e-5)
  np.testing.assert_allclose(measured.log_norm, log_rms, rtol=1e-5, atol=1e-6)


def test_names_and_modules(cfg):
  name = families.name(cfg)
  assert {'decoder': builtin.DECODER, 'mixer': builtin.DECODER,
          'autoencoder': builtin.AUTOENCODER,
          'memory': builtin.MEMORY}[name] is families.family(cfg)
  assert [key for key in CONFIGS if CONFIGS[key] is cfg][0].startswith(name)


def test_what_programs_ask_of_a_model():
  plain, mixing = CONFIGS['decoder'], CONFIGS['mixer']
  auto, parallel = CONFIGS['autoencoder'], CONFIGS['memory_parallel']
  none = CONFIGS['memory_none']
  learned = tiny_models.transformer(positions='learned', max_length=9)
  assert families.stacks(plain) == {'': plain}
  assert list(families.stacks(auto)) == ['encoder', 'decoder']
  assert families.stacks(none) == {'decoder': none.decoder}
  assert families.measured(parallel) is parallel.encoder
  assert families.measured(none) is none.decoder
  fixed = [families.lengths(c).fixed for c in (plain, mixing, auto, parallel)]
  assert fixed == [None, None, LENGTH, LENGTH]
  longest = [
      families.lengths(c).longest
      for c in (plain, learned, mixing, auto, parallel)
  ]
  assert longest == [None, 9, LENGTH, LENGTH, LENGTH]
  oracle = CONFIGS['memory_oracle_add']
  lengths = [
      families.lengths(c).measured
      for c in (plain, auto, parallel, none, oracle)
  ]
  assert lengths == [None, LENGTH, 4, 7, LENGTH]
  assert {c.vocab_size for c in CONFIGS.values()} == {11}
  assert families.encoder(plain) is plain
  assert families.encoder(parallel) is parallel.encoder
  for kind in ('none', 'recurrent'):
    with pytest.raises(ValueError, match=f"kind '{kind}' has no encoder"):
      families.encoder(CONFIGS[f'memory_{kind}'])
  assert families.the_decoder(plain, 'sampling') is plain
  with pytest.raises(ValueError, match='sampling needs .* MemoryConfig'):
    families.the_decoder(parallel, 'sampling')


def test_attention_is_resolved_in_every_stack(cfg):
  resolved = families.resolve_attention(cfg, 'tpu')
  assert {s.attention for s in families.stacks(cfg).values()} == {'auto'}
  found = {s.attention for s in families.stacks(resolved).values()}
  assert found == {'splash'}


@pytest.mark.parametrize('name', ['decoder', 'memory_parallel'])
def test_encode_reads_the_encoder_of_a_model(name):
  cfg = CONFIGS[name]
  params = tiny_models.random_params(cfg)
  tree = params if name == 'decoder' else params['encoder']
  tokens = tiny_models.random_tokens(ROWS, 4)
  mask = np.asarray([[False, False, True, True], [True] * 4])

  @jax.jit
  def run(params, tokens, mask):
    return families.encode(params, tokens, cfg, mask)

  found = np.asarray(run(params, tokens, mask))
  # The head reads what is encoded: check through the embedding's logits.
  part = dataclasses.replace(families.encoder(cfg), tie_embeddings=True)
  plain = jax.jit(lambda p, t: decoder.apply(p, t, part).logits_BxLxV)
  table = params['embed'] if name == 'decoder' else tree['embed']
  head = {'norm': tree['head']['norm']}
  for row, there in ((0, slice(2, 4)), (1, slice(0, 4))):
    logits = plain({**tree, 'head': head}, tokens[row : row + 1, there])
    np.testing.assert_allclose(
        found[row, there] @ table['tokens'].T, logits[0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    'cfg, numbers',
    [
        (autoencode('transformer'), 8),
        (autoencode('transformer', compression=4), 2),
        (tiny_models.memory(compression=2), 4),
        (tiny_models.memory('oracle_embedding', compression=2), 4),
        (tiny_models.memory(encoder=dict(width=16)), 8),
        (tiny_models.memory(encoder=dict(width=32), compression=2), 8),
        (tiny_models.memory(encoder=dict(width=16), compression=4), 4),
        (tiny_models.transformer(), 8),
    ],
)
def test_what_is_kept_of_a_vector_is_all_that_goes_on(cfg, numbers):
  """What is read of it on the other side is a linear map of what is kept."""
  params = tiny_models.random_params(cfg)
  width = families.encoder(cfg).width
  e = np.random.default_rng(1).normal(size=(64, width)).astype(np.float32)
  kept = np.asarray(families.narrowed(params, e, cfg))
  assert kept.shape == (64, numbers)
  if isinstance(cfg, models.DecoderConfig):
    np.testing.assert_array_equal(kept, e)
    return
  is_memory = isinstance(cfg, models.MemoryConfig)
  way = cfg.passage if is_memory else cfg.reconstruction.passage
  tree = params if is_memory else params['decoder']['inject']
  read = layers.call(
      embeddings.Pass(cfg.decoder, way), tree.get('passage', {}), e
  )
  _, residual, rank, _ = np.linalg.lstsq(kept, np.asarray(read), rcond=None)
  assert rank == numbers
  np.testing.assert_allclose(residual, 0, atol=1e-6)

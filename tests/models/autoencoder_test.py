import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models

from iblm_jax.models import autoencoder, families, flops, reconstruction
from iblm_jax.models import config as model_config

LENGTH = 5


def make(encoder='transformer', decoder='transformer', **rest):
  stack = lambda name, **fields: (
      tiny_models.mixer(LENGTH, **fields)
      if name == 'mixer'
      else tiny_models.transformer(**fields)
  )
  return autoencoder.AutoencoderConfig(
      stack(encoder, tie_embeddings=True), stack(decoder), LENGTH, **rest
  )


def repeated():
  """Attention that sees one vector everywhere, and where it is."""
  cfg = make()
  part = dataclasses.replace(
      cfg.decoder, positions='learned', max_length=LENGTH
  )
  return dataclasses.replace(cfg, decoder=part, injection='repeat')


_embed = jax.jit(autoencoder.embed, static_argnames='cfg')
_apply = jax.jit(autoencoder.apply, static_argnames=('cfg', 'collect'))
_decode = jax.jit(reconstruction.apply, static_argnames='cfg')


def embed(params, tokens, cfg, mask=None):
  return np.asarray(_embed(params, tokens, cfg, mask=mask)[0])


def apply(params, tokens, cfg, mask=None):
  return np.asarray(_apply(params, tokens, cfg, mask=mask).logits_BxLxV)


def decode(params, e, cfg):
  return np.asarray(_decode(params['decoder'], e, cfg.reconstruction))


COMBINATIONS = [
    make('transformer', 'transformer'),
    make('mixer', 'mixer', injection='repeat'),
    repeated(),
    make('transformer', 'mixer', compression=2),
    make('mixer', 'transformer', position='penultimate'),
]


@pytest.mark.parametrize(
    'cfg', COMBINATIONS, ids=['tt', 'mm', 'tr', 'tm', 'mt']
)
def test_decoder_sees_the_vector_alone(cfg):
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(3, LENGTH)
  mask = np.ones([3, LENGTH], bool)
  mask[0, 3:] = mask[1, 2:] = False
  logits = apply(params, tokens, cfg, mask)
  assert logits.shape == (3, LENGTH, tiny_models.VOCAB)
  # Of rows that are not told apart by what is there, the vectors are equal,
  # and so are all logits.
  changed = tiny_models.other(tokens, ~mask)
  np.testing.assert_array_equal(
      embed(params, changed, cfg, mask), embed(params, tokens, cfg, mask)
  )
  np.testing.assert_array_equal(apply(params, changed, cfg, mask), logits)
  # All that the decoder is given is a vector.
  e = embed(params, tokens, cfg, mask)
  assert e.shape == (3, 8)
  np.testing.assert_allclose(
      decode(params, e, cfg), logits, rtol=1e-5, atol=1e-5
  )
  # Every token that is there moves it.
  read = 1 if cfg.position == 'penultimate' else 0
  for row, count in enumerate((3, 2, LENGTH)):
    for t in range(count - read):
      moved = apply(params, tiny_models.other(tokens, row, t), cfg, mask)
      assert np.abs(moved[row] - logits[row]).max() > 1e-4


@pytest.mark.parametrize(
    'cfg',
    [make(), make(decoder='mixer', injection='repeat'), repeated()],
    ids=['unroll', 'mixer', 'learned positions'],
)
def test_positions_of_the_decoder_differ(cfg):
  """All see the same vector, so something else must tell them apart."""
  e = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
  logits = decode(tiny_models.random_params(cfg), e, cfg)
  apart = np.abs(logits[:, :, None] - logits[:, None]).max(axis=(0, 3))
  assert apart[~np.eye(LENGTH, dtype=bool)].min() > 1e-2


def test_compression_leaves_fewer_numbers():
  """What is injected spans as many dimensions as numbers pass."""
  e = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
  for compression in (1, 2, 4):
    cfg = make(compression=compression).reconstruction
    assert cfg.passage.num_numbers == 8 // compression
    params = tiny_models.random_params(
        jax.eval_shape(lambda c=cfg: reconstruction.init(jax.random.key(0), c))
    )
    inject = reconstruction.Inject(cfg)
    x = jax.jit(inject.apply)({'params': params['inject']}, e)
    x = np.asarray(x).reshape(32, -1)
    x = x - x.mean(axis=0)  # without the bias
    assert np.linalg.matrix_rank(x, tol=1e-3) == cfg.passage.num_numbers


@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_changes_nothing(side):
  """Rotary positions are relative, so padding may stand on either side."""
  cfg = make()
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, 3)
  bare = embed(params, tokens, cfg)
  pad = (0, 0), ((2, 0) if side == 'left' else (0, 2))
  padded = np.pad(tokens, pad, constant_values=7)
  mask = np.pad(np.ones_like(tokens, bool), pad)
  np.testing.assert_allclose(
      embed(params, padded, cfg, mask), bare, rtol=1e-5, atol=1e-5
  )


def test_a_row_of_padding_is_harmless():
  cfg = make('mixer', 'mixer', injection='repeat')
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, LENGTH)
  mask = np.asarray([[True] * LENGTH, [False] * LENGTH])

  @jax.jit
  def loss_and_grad(params, tokens):
    def loss(params):
      logits = autoencoder.apply(params, tokens, cfg, mask=mask).logits_BxLxV
      return jnp.sum(jnp.where(mask[..., None], logits, 0) ** 2), logits

    return jax.grad(loss, has_aux=True)(params)

  grads, logits = loss_and_grad(params, tokens)
  assert np.isfinite(logits).all()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  # And says nothing about its tokens.
  changed, _ = loss_and_grad(params, tiny_models.other(tokens, 1))
  jax.tree.map(np.testing.assert_array_equal, grads, changed)


def test_learns_a_batch_by_heart():
  rows, length, vocab = 32, 8, 16
  stack = model_config.llama(
      vocab, num_layers=1, width=32, num_heads=2, scan_layers=False
  )
  tied = dataclasses.replace(stack, tie_embeddings=True)
  cfg = autoencoder.AutoencoderConfig(tied, stack, length)
  tokens = np.random.default_rng(0).integers(vocab, size=(rows, length))
  tx = optax.adam(1e-2)

  def loss(params):
    logits = autoencoder.apply(params, tokens, cfg).logits_BxLxV
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    return nll.mean(), jnp.mean(logits.argmax(-1) == tokens)

  @jax.jit
  def step(params, state):
    (_, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state, accuracy

  init = lambda key: autoencoder.init(key, cfg)
  params = jax.jit(init)(jax.random.key(0))
  state = jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(tx.init, params),
  )
  accuracies = []
  for _ in range(60):
    params, state, accuracy = step(params, state)
    accuracies.append(float(accuracy))
  assert accuracies[0] < 0.2 and accuracies[-1] > 0.95


def test_flops_by_hand():
  d, f, n, v = 8, 12, 2, tiny_models.VOCAB
  keys = (1 + 2 + 3 + 4 + 5) / LENGTH
  blocks = n * (2 * 3 * d * f + 2 * 4 * d * d + 2 * 2 * d * keys)
  unroll = 2 * (d // 2) * d
  head = 2 * d * v
  found = flops.forward_flops_per_token(make(), LENGTH)
  assert found == 2 * blocks + unroll + head
  found = flops.forward_flops_per_token(repeated(), LENGTH)
  assert found == 2 * blocks + head


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(family='memory'), "family must be 'autoencoder' .* got 'memory'"),
        (dict(position='first'), "position must be one of .* got 'first'"),
        (dict(injection='tile'), "injection must be one of .* got 'tile'"),
        (dict(compression=3), 'compression=3 and width=8'),
        (
            dict(encoder=tiny_models.transformer()),
            'encoder.tie_embeddings must be True',
        ),
        (
            dict(encoder=tiny_models.mixer(4, tie_embeddings=True)),
            'encoder.mixer.length must be at least 5, got 4',
        ),
        (
            dict(
                encoder=tiny_models.transformer(
                    tie_embeddings=True, positions='learned', max_length=4
                )
            ),
            'encoder.max_length must be at least 5, got 4',
        ),
        (
            dict(decoder=dataclasses.replace(make().decoder, vocab_size=12)),
            'decoder.vocab_size must be that of the encoder, 11, got 12',
        ),
    ],
)
def test_config_refuses(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(make(), **change)


def test_apply_refuses():
  cfg = make()
  params = families.shapes(cfg)
  tokens = tiny_models.random_tokens(2, LENGTH)
  with pytest.raises(ValueError, match=r'shape \[B, 5\], got \(2, 4\)'):
    autoencoder.apply(params, tokens[:, :4], cfg)
  with pytest.raises(ValueError, match='collect must be one of .* got .all.'):
    jax.eval_shape(
        lambda p: autoencoder.apply(p, tokens, cfg, collect='all'), params
    )
  with pytest.raises(ValueError, match='mask must have the shape'):
    autoencoder.apply(params, tokens, cfg, mask=np.ones([2, 4], bool))

import dataclasses

import chex
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import numpy_decoder
import pytest

from iblm_jax.information import entropy
from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, families, flops
from iblm_jax.models.generation import decoding
from iblm_jax.models.nn import attention

# Compiled as a whole: one by one, operations compile for longer than they run.
apply = jax.jit(decoder.apply, static_argnames=('cfg', 'collect'))
extend = jax.jit(decoding.extend, static_argnames='cfg')
init = jax.jit(
    decoder.init,
    static_argnames='cfg',
    compiler_options={'xla_backend_optimization_level': 0},
)
sample = jax.jit(
    decoding.sample,
    static_argnames=('cfg', 'num_tokens', 'temperature', 'top_k'),
)

SMALL = dict(vocab_size=11, num_layers=2, width=16, num_heads=2, max_length=32)
VARIANTS = {
    'plain': model_config.DecoderConfig(**SMALL),
    'gpt2': model_config.gpt2(**SMALL),
    'modded': model_config.modded_gpt(
        'medium', **{**SMALL, 'num_layers': 4}, dtype='float32'  # two skips
    ),
    'llama': model_config.DecoderConfig(
        **SMALL, activation='swiglu', mlp_width=24, qk_norm=True
    ),
    'windowed': model_config.DecoderConfig(**SMALL, window=3, norm='layer'),
    'gemma': model_config.DecoderConfig(
        **SMALL, activation='geglu', num_kv_heads=1, qk_norm=True,
        qk_norm_scale=True, norm_plus_one=True, output_norms=True,
        embedding_scale=4.0, attention_width=12.0, attention_softcap=2.0,
        logit_softcap=5.0, window=3, full_every=2, window_rotary_base=100.0,
    ),
}


@pytest.fixture(params=list(VARIANTS))
def cfg(request):
  return VARIANTS[request.param]


def random_params(cfg, seed=0):
  """Parameters in which nothing is zero or one, drawn without compiling."""
  rng = np.random.default_rng(seed)
  shapes = families.shapes(cfg)
  return jax.tree.map(
      lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
      shapes,
  )


def random_tokens(cfg, batch, length, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(cfg.vocab_size, size=(batch, length)))


def to_float64(params):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def test_equals_plain_numpy(cfg):
  params = random_params(cfg)
  tokens_BxL = random_tokens(cfg, 2, 12)
  outputs = apply(params, tokens_BxL, cfg, collect='hidden')
  for row in range(2):
    logits, streams = numpy_decoder.forward(
        to_float64(params), np.asarray(tokens_BxL[row]), cfg
    )
    np.testing.assert_allclose(
        outputs.logits_BxLxV[row], logits, rtol=2e-4, atol=2e-4
    )
    np.testing.assert_allclose(
        outputs.hidden[:, row], streams, rtol=2e-4, atol=2e-4
    )


def test_packed_documents_equal_separate_ones():
  cfg = VARIANTS['plain']
  params = random_params(cfg)
  tokens_1xL = random_tokens(cfg, 1, 12)
  segment_ids = jnp.asarray([[1] * 5 + [2] * 7])
  positions = jnp.asarray([[*range(5), *range(7)]])
  packed = apply(
      params, tokens_1xL, cfg, segment_ids=segment_ids, positions=positions
  ).logits_BxLxV
  for part in (slice(0, 5), slice(5, 12)):
    alone = apply(params, tokens_1xL[:, part], cfg).logits_BxLxV
    np.testing.assert_allclose(packed[:, part], alone, rtol=1e-5, atol=1e-5)


def test_without_document_mask_documents_mix():
  cfg = dataclasses.replace(VARIANTS['plain'], document_mask=False)
  params = random_params(cfg)
  tokens = random_tokens(cfg, 1, 8)
  segment_ids = jnp.asarray([[1] * 4 + [2] * 4])
  mixed = apply(params, tokens, cfg, segment_ids=segment_ids)
  plain = apply(params, tokens, cfg)
  np.testing.assert_array_equal(mixed.logits_BxLxV, plain.logits_BxLxV)


def test_no_token_sees_the_future(cfg):
  params = random_params(cfg)
  tokens = random_tokens(cfg, 1, 10)
  changed = tokens.at[0, 6].set((tokens[0, 6] + 1) % cfg.vocab_size)
  before = apply(params, tokens, cfg).logits_BxLxV[0]
  after = apply(params, changed, cfg).logits_BxLxV[0]
  np.testing.assert_array_equal(before[:6], after[:6])
  assert np.abs(before[6] - after[6]).max() > 1e-4


@pytest.mark.parametrize(
    'variant, change',
    [
        ('plain', dict(scan_layers=False)),
        ('modded', dict(remat='full', scan_layers=False)),
        ('modded', dict(remat='full')),
        ('llama', dict(remat='dots')),
        ('gemma', dict(remat='full')),
        ('gemma', dict(scan_layers=False)),
    ],
    ids=str,
)
def test_scan_and_remat_change_nothing(variant, change):
  cfg = dataclasses.replace(VARIANTS[variant], num_layers=2)
  other = dataclasses.replace(cfg, **change)
  params = random_params(cfg)
  tokens = random_tokens(cfg, 2, 8)

  def loss(params, cfg):
    outputs = decoder.apply(params, tokens, cfg, collect='entropy')
    return jnp.sum(outputs.logits_BxLxV**2) + jnp.sum(outputs.entropy)

  chex.assert_trees_all_equal_shapes(
      params, jax.eval_shape(lambda: decoder.init(jax.random.key(0), other))
  )
  grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  chex.assert_trees_all_close(
      grad(params, other), grad(params, cfg), rtol=2e-4, atol=2e-4
  )


def test_entropy_in_the_loop_is_that_of_the_streams(cfg):
  params = random_params(cfg)
  tokens = random_tokens(cfg, 2, 16)
  mask = jnp.arange(16)[None] < jnp.asarray([[16], [11]])
  hidden = apply(params, tokens, cfg, mask=mask, collect='hidden')
  measured = apply(params, tokens, cfg, mask=mask, collect='entropy')
  assert measured.hidden is None and hidden.entropy is None
  expected = jax.jit(
      lambda h: [entropy.patch_entropy(x, patch_size=8, mask=mask) for x in h]
  )(hidden.hidden)
  np.testing.assert_allclose(measured.entropy, expected, rtol=1e-5)


def test_entropy_keeps_no_streams():
  cfg = model_config.DecoderConfig(64, num_layers=16, width=64, num_heads=1)
  tokens = jax.ShapeDtypeStruct((8, 64), jnp.int32)
  params = families.shapes(cfg)

  def bytes_with(collect):
    run = jax.jit(lambda p, t: decoder.apply(p, t, cfg, collect=collect)[1:])
    analysis = run.lower(params, tokens).compile().memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

  streams = 16 * 8 * 64 * 64 * 4
  assert bytes_with('hidden') >= streams
  assert bytes_with('entropy') < bytes_with('hidden') - 0.8 * streams


def test_cache_gives_the_logits_of_the_whole_sequence(cfg):
  params = random_params(cfg)
  tokens = random_tokens(cfg, 2, 9)
  expected = apply(params, tokens, cfg).logits_BxLxV
  cache = decoding.init_cache(cfg, batch_size=2, size=12)
  parts = []
  for start, stop in ((0, 4), (4, 5), (5, 6), (6, 9)):
    logits, cache = extend(params, tokens[:, start:stop], cache, cfg)
    parts.append(logits)
  np.testing.assert_allclose(
      jnp.concatenate(parts, axis=1), expected, rtol=1e-4, atol=1e-4
  )


def test_greedy_sampling_takes_the_arg_max_of_the_whole_sequence():
  cfg = VARIANTS['plain']
  params = random_params(cfg)
  prompt = random_tokens(cfg, 2, 3)
  sampled = sample(
      params, prompt, cfg, jax.random.key(0), num_tokens=6, temperature=0.0
  )
  tokens = prompt
  for _ in range(6):
    logits = apply(params, tokens, cfg).logits_BxLxV[:, -1]
    tokens = jnp.concatenate([tokens, logits.argmax(-1)[:, None]], axis=1)
  np.testing.assert_array_equal(sampled, tokens[:, 3:])


def test_sampling_frequencies_follow_the_softmax():
  cfg = VARIANTS['plain']
  params = random_params(cfg)
  prompt = jnp.tile(random_tokens(cfg, 1, 3), (20_000, 1))
  kwargs = dict(num_tokens=1, temperature=0.5)
  sampled = sample(params, prompt, cfg, jax.random.key(1), **kwargs)
  logits = apply(params, prompt[:1], cfg).logits_BxLxV[0, -1] / 0.5
  expected = jax.nn.softmax(logits)
  found = np.bincount(np.asarray(sampled)[:, 0], minlength=11) / 20_000
  np.testing.assert_allclose(found, expected, atol=0.015)
  top = sample(
      params, prompt, cfg, jax.random.key(1), top_k=3, **kwargs
  )
  assert set(np.unique(top)) == set(np.argsort(logits)[-3:].tolist())


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(num_tokens=0), 'num_tokens must be at least 1, got 0'),
        (dict(temperature=-1.0), 'temperature must be finite and >= 0'),
        (dict(top_k=12), r'top_k must lie in \[1, 11\], got 12'),
        (dict(prompt_length=0), 'at least one token'),
        (dict(num_tokens=30), '33 tokens, more than max_length 32'),
    ],
)
def test_sampling_refuses(change, message):
  kwargs = dict(prompt_length=3, num_tokens=1, temperature=1.0, top_k=None)
  with pytest.raises(ValueError, match=message):
    decoding.check_sampling(VARIANTS['gpt2'], **{**kwargs, **change})


@pytest.mark.parametrize('window', [None, 1, 5, 64, 100])
@pytest.mark.parametrize('length', [1, 63, 130])
def test_blocked_attention_equals_the_full_square(window, length):
  attend = jax.jit(
      attention.causal_attention, static_argnames=('window', 'implementation')
  )
  rng = np.random.default_rng(0)
  q, k, v = (
      jnp.asarray(rng.normal(size=(2, length, 2, 8)), jnp.float32)
      for _ in range(3)
  )
  segments = jnp.asarray(np.sort(rng.integers(1, 4, size=(2, length)), axis=1))
  for segment_ids in (None, segments):
    blocked, full = (
        attend(
            q,
            k,
            v,
            segment_ids_BxL=segment_ids,
            window=window,
            implementation=name,
        )
        for name in ('blocked', 'xla')
    )
    np.testing.assert_allclose(blocked, full, rtol=2e-5, atol=2e-5)


def test_attention_resolves_by_platform():
  assert attention.resolve('auto', 'cpu', jnp.bfloat16) == 'blocked'
  assert attention.resolve('auto', 'gpu', jnp.bfloat16) == 'cudnn'
  assert attention.resolve('auto', 'gpu', jnp.float32) == 'xla'
  assert attention.resolve('auto', 'tpu', jnp.bfloat16) == 'splash'
  assert attention.resolve('xla', 'cpu', jnp.float32) == 'xla'


@pytest.mark.parametrize(
    'size, millions',
    # Published sizes of GPT-2 (Hugging Face model cards' weight files).
    [('small', 124_439_808), ('medium', 354_823_168), ('large', 774_030_080),
     ('xl', 1_557_611_200)],
)
def test_gpt2_sizes(size, millions):
  cfg = model_config.gpt2(size)
  params = families.shapes(cfg)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == millions


def test_flops_formula_counts_the_matrix_products():
  length = 16
  for cfg in VARIANTS.values():
    cfg = dataclasses.replace(cfg, scan_layers=False, attention='xla')
    if cfg.window is not None:
      continue
    params = families.shapes(cfg)
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    found = jaxprs.dot_flops(
        lambda p, t, c=cfg: decoder.apply(p, t, c)[0], params, tokens
    )
    # The traced attention is the full square; the formula counts its half.
    square = cfg.num_layers * 4 * cfg.width * length
    half = square * (length + 1) / (2 * length)
    expected = found / length - square + half
    assert flops.forward_flops_per_token(cfg, length) == expected


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
  cfg = dataclasses.replace(VARIANTS['plain'], dtype='bfloat16')
  params = random_params(cfg)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('f4')}
  tokens = random_tokens(cfg, 2, 8)
  outputs = apply(params, tokens, cfg, collect='hidden')
  assert outputs.hidden.dtype == jnp.bfloat16
  assert outputs.logits_BxLxV.dtype == jnp.float32
  exact = apply(params, tokens, VARIANTS['plain']).logits_BxLxV
  error = np.abs(outputs.logits_BxLxV - exact).max() / np.abs(exact).max()
  assert 0 < error < 0.05


def test_zero_init_starts_at_a_uniform_prediction():
  cfg = VARIANTS['modded']
  params = init(jax.random.key(0), cfg)
  logits = apply(params, random_tokens(cfg, 1, 4), cfg).logits_BxLxV
  np.testing.assert_array_equal(logits, 0.0)


def test_logical_axes_name_every_dimension(cfg):
  params = families.shapes(cfg)
  axes = decoder.logical_axes(cfg)
  is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)
  ranks = jax.tree.map(lambda leaf: leaf.ndim, params)
  assert ranks == jax.tree.map(len, axes, is_leaf=is_spec)
  kernel = axes['blocks']['attention']['query']['kernel']
  assert tuple(kernel) == ('layers', 'embed', 'heads', 'kv')


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(num_layers=0), 'num_layers must be an integer >= 1, got 0'),
        (dict(width=10, num_heads=3), 'width must be a multiple of num_heads'),
        (dict(width=6, num_heads=2), 'even head width, got 3'),
        (dict(norm='batch'), "norm must be one of .* got 'batch'"),
        (dict(logit_softcap=-1.0), 'logit_softcap must be > 0 or None'),
        (dict(num_layers=3, unet_skips=True), 'needs an even num_layers'),
        (dict(window=0), 'window must be an integer >= 1, got 0'),
    ],
)
def test_config_refuses(change, message):
  with pytest.raises(ValueError, match=message):
    model_config.DecoderConfig(**{**SMALL, **change})


def test_apply_refuses():
  cfg = VARIANTS['gpt2']
  params = random_params(cfg)
  tokens = jnp.zeros([1, 8], jnp.int32)
  with pytest.raises(ValueError, match='33 tokens is longer than max_length'):
    decoder.apply(params, jnp.zeros([1, 33], jnp.int32), cfg)
  with pytest.raises(ValueError, match='collect must be'):
    apply(params, tokens, cfg, collect='all')
  with pytest.raises(ValueError, match='mask must have the shape'):
    apply(params, tokens, cfg, mask=jnp.ones([8], bool))
  with pytest.raises(ValueError, match=r'must have shape \[B, L\]'):
    apply(params, tokens[0], cfg)


@pytest.mark.parametrize(
    'alpha, scan_layers, barriers',
    [(1.5, False, 1), (1.5, True, 0), (2, False, 0)],
)
def test_eigenvalues_of_layers_are_not_found_at_once(
    alpha, scan_layers, barriers
):
  """Overlapping LAPACK calls of unrolled layers can stop XLA on a CPU."""
  cfg = model_config.DecoderConfig(
      vocab_size=8, num_layers=2, width=16, num_heads=2,
      scan_layers=scan_layers,
      entropy=entropy.EntropyConfig(alpha=alpha, patch_size=8),
  )
  params = families.shapes(cfg)
  run = lambda p: decoder.apply(
      p, jnp.zeros([1, 16], jnp.int32), cfg, collect='entropy'
  )
  lines = str(jax.make_jaxpr(run)(params)).splitlines()
  found = [line for line in lines if 'optimization_barrier' in line]
  assert len(found) == barriers

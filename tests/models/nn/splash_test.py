"""The fused TPU kernel, interpreted, against attention from its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.models.nn import attention, splash

SHAPE = (1, 256, 2, 32)


def arrays():
  rng = np.random.default_rng(0)
  q, k, v, weight = (
      jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(4)
  )
  segments = np.sort(rng.integers(1, 4, size=SHAPE[:2]), axis=1)
  return q, k, v, weight, jnp.asarray(segments, jnp.int32)


def plain(q, k, v, segments, window, softcap):
  """Softmax over the keys a query may see, written out."""
  distance = np.arange(SHAPE[1])[:, None] - np.arange(SHAPE[1])[None]
  seen = (distance >= 0) & (distance < (window or SHAPE[1]))
  seen = jnp.asarray(seen)[None, None]
  if segments is not None:
    seen = seen & (segments[:, None, :, None] == segments[:, None, None, :])
  scores = jnp.einsum('bthk,bshk->bhts', q, k) / np.sqrt(SHAPE[-1])
  if softcap is not None:
    scores = softcap * jnp.tanh(scores / softcap)
  weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
  return jnp.einsum('bhts,bshk->bthk', weights, v)


@pytest.mark.parametrize(
    'window, documents, softcap', [(None, False, 1.5), (100, True, None)]
)
def test_values_and_gradients(window, documents, softcap):
  q, k, v, weight, segments = arrays()
  segments = segments if documents else None

  def fused(q, k, v):
    mixed = splash.causal_attention(
        q, k, v, segment_ids_BxL=segments, window=window, softcap=softcap,
        interpret=True,
    )
    return jnp.sum(mixed * weight)

  def expected(q, k, v):
    return jnp.sum(plain(q, k, v, segments, window, softcap) * weight)

  value, grads = jax.value_and_grad(fused, (0, 1, 2))(q, k, v)
  wanted, wanted_grads = jax.value_and_grad(expected, (0, 1, 2))(q, k, v)
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  for grad, other in zip(grads, wanted_grads, strict=True):
    np.testing.assert_allclose(grad, other, atol=2e-5)


def test_rows_off_the_tile_take_another_path():
  q = jnp.ones([1, 100, 1, 8])
  with pytest.raises(ValueError, match='multiple of 128, got 100'):
    splash.causal_attention(q, q, q)
  mixed = attention.causal_attention(q, q, q, implementation='splash')
  np.testing.assert_allclose(mixed, q, rtol=1e-5)

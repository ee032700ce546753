"""Paths of attention that stand in for each other."""

import numpy as np
import pytest

from iblm_jax.models.nn import attention


def arrays(length):
  rng = np.random.default_rng(0)
  q, k, v = rng.normal(size=(3, 2, length, 2, 8)).astype(np.float32)
  segments = np.sort(rng.integers(1, 3, size=(2, length)), axis=1)
  return (q, k, v), segments.astype(np.int32)


def test_odd_rows_with_documents_go_around_cudnn():
  """Whose kernel has no gradient for them; it would not run here at all."""
  qkv, segments = arrays(5)
  found = attention.causal_attention(
      *qkv, segment_ids_BxL=segments, implementation='cudnn'
  )
  expected = attention.causal_attention(
      *qkv, segment_ids_BxL=segments, implementation='blocked'
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_unknown_path():
  qkv, _ = arrays(4)
  with pytest.raises(ValueError, match="attention must be .* got 'flash'"):
    attention.causal_attention(*qkv, implementation='flash')

"""Numbers of quantised blocks, against the package gguf."""

import numpy as np
import pytest

from iblm_jax.models.pretrained import gguf_numbers

gguf = pytest.importorskip('gguf')


@pytest.mark.parametrize('kind', gguf_numbers.KINDS)
@pytest.mark.filterwarnings('ignore:invalid value')
def test_the_same_numbers_from_all_bytes(kind):
  quantisation = gguf.GGMLQuantizationType[kind]
  _, size = gguf.GGML_QUANT_SIZES[quantisation]
  # Any bytes are numbers, infinities and NaN among them.
  raw = np.random.default_rng(0).integers(
      256, size=(5, 7, 64 * size), dtype=np.uint8
  )
  found = gguf_numbers.dequantize(raw, kind)
  assert found.dtype == np.float32 and not np.isfinite(found).all()
  np.testing.assert_array_equal(found, gguf.dequantize(raw, quantisation))

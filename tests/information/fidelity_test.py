"""What embeddings hold, against closed forms and the paper's own numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.information import fidelity

# Cross-entropy of a probe and the fraction printed beside it, V = 8000
# (public write-up of arXiv 2602.13466; the third decimal of some is cut off).
PUBLISHED = [
    (0.435, 0.952), (1.528, 0.831), (5.937, 0.343), (5.815, 0.356),
    (5.594, 0.381), (5.767, 0.361), (4.953, 0.451), (4.980, 0.449),
    (2.924, 0.676), (2.935, 0.675), (6.643, 0.264), (6.214, 0.311),
    (6.380, 0.293), (5.549, 0.385),
]


@pytest.mark.parametrize('vocab_size', [2, 64, 8000, 128_256])
def test_fraction_at_its_ends(vocab_size):
  largest = math.log(vocab_size)
  got = fidelity.information_fraction(
      jnp.array([0.0, largest / 4, largest, 2 * largest]), vocab_size
  )
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [1.0, 0.75, 0.0, -1.0], atol=1e-6)


def test_fraction_of_the_uniform_prediction_is_zero():
  logits_NxV = jnp.full((3, 50), 1.7)
  cross_entropy = -jnp.mean(jax.nn.log_softmax(logits_NxV)[:, 4])
  got = fidelity.information_fraction(cross_entropy, 50)
  assert float(got) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize('cross_entropy, printed', PUBLISHED)
def test_fraction_of_the_published_numbers(cross_entropy, printed):
  """Their reference is 9.03 nats; ours is ln V = 8.987."""
  assert 1 - cross_entropy / 9.03 == pytest.approx(printed, abs=1e-3)
  got = float(fidelity.information_fraction(cross_entropy, 8000))
  known = 1 - (1 - printed) * 9.03 / math.log(8000)
  assert got == pytest.approx(known, abs=1e-3)
  # Both that they differ and by how much, as the docstring says.
  gap = (1 - cross_entropy / 9.03) - got
  assert gap == pytest.approx(
      0.005 * cross_entropy / math.log(8000), rel=0.1
  )


def test_the_published_reference_is_that_of_uniform_logits():
  rng = np.random.default_rng(0)
  logits = rng.random((200, 8000))
  losses = np.log(np.exp(logits).sum(-1)) - logits[:, 0]
  closed_form = math.log(8000 * (math.e - 1)) - 0.5
  assert losses.mean() == pytest.approx(closed_form, abs=4 * 0.29 / 200**0.5)
  assert round(closed_form, 2) == 9.03


def test_bits_of_a_code_of_known_length():
  """Ten tokens of 8 symbols, of which the embedding tells 4 apart."""
  bits = fidelity.recovered_bits(math.log(8), math.log(2), 10)
  assert bits.dtype == jnp.float32
  assert float(bits) == pytest.approx(10 * 2, rel=1e-6)
  fraction = fidelity.recovered_fraction(math.log(8), math.log(2))
  assert float(fraction) == pytest.approx(2 / 3, rel=1e-6)


@pytest.mark.parametrize('num_tokens', [1, 12.7, 512])
def test_recovered_is_the_definition(num_tokens):
  rng = np.random.default_rng(1)
  constant, ce = 5 + rng.random((2, 1)), 7 * rng.random(3)
  np.testing.assert_allclose(
      fidelity.recovered_bits(constant, jnp.asarray(ce)[None], num_tokens),
      num_tokens * (constant - ce) / np.log(2),
      rtol=1e-5, atol=1e-5 * num_tokens,
  )
  np.testing.assert_allclose(
      fidelity.recovered_fraction(constant, jnp.asarray(ce)[None]),
      (constant - ce) / constant,
      rtol=1e-5, atol=1e-5,
  )


def test_no_better_than_the_control_recovers_nothing():
  assert fidelity.recovered_bits(3.0, 3.0, 100) == 0
  assert fidelity.recovered_fraction(3.0, 3.0) == 0
  assert fidelity.recovered_bits(3.0, 4.0, 100) < 0
  assert fidelity.recovered_fraction(3.0, 0.0) == 1
  assert np.isnan(fidelity.recovered_fraction(0.0, 0.0))


def test_bits_per_byte():
  # Every byte one of 256 at random, in tokens of three bytes.
  got = fidelity.bits_per_byte(jnp.full(2, 3 * math.log(256)), 3)
  np.testing.assert_allclose(got, [8.0, 8.0], rtol=1e-6)
  # The published pair: 2.6 nats and 0.957 bits per byte at 3.92 bytes a token.
  got = float(fidelity.bits_per_byte(2.6, 3.92))
  assert got == pytest.approx(0.957, abs=5e-4)


def test_storage():
  # A file of 512 bytes for texts of 2048 bytes.
  assert fidelity.storage_bits_per_byte(256, 16, 512, 4) == 2.0
  assert fidelity.storage_bits_per_byte(0, 16, 512, 4) == 0.0
  # In nats per token it is the file's bits over the tokens, times ln 2.
  cost = fidelity.storage_bits_per_byte(64, 8, 1024, 3.92)
  per_token = cost * math.log(2) * 3.92
  assert per_token == pytest.approx(64 * 8 * math.log(2) / 1024)


def test_all_run_inside_jit():
  def everything(constant, ce):
    return (
        fidelity.information_fraction(ce, 64),
        fidelity.recovered_bits(constant, ce, 16),
        fidelity.recovered_fraction(constant, ce),
        fidelity.bits_per_byte(ce, 2.5),
    )

  np.testing.assert_allclose(
      jax.jit(everything)(4.0, 1.0), everything(4.0, 1.0), rtol=1e-6
  )


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: fidelity.information_fraction(1.0, 1),
         'vocab_size must be at least 2, got 1'),
        (lambda: fidelity.recovered_bits(2.0, 1.0, 0),
         'num_tokens must be at least 1, got 0'),
        (lambda: fidelity.recovered_bits(2.0, 1.0, math.nan),
         'num_tokens must be at least 1, got nan'),
        (lambda: fidelity.bits_per_byte(1.0, 0.0),
         'bytes_per_token must be > 0, got 0.0'),
        (lambda: fidelity.storage_bits_per_byte(-1, 8, 16, 4),
         'num_numbers must be at least 0, got -1'),
        (lambda: fidelity.storage_bits_per_byte(64, -8, 16, 4),
         'bits_per_number must be at least 0, got -8'),
        (lambda: fidelity.storage_bits_per_byte(64, 8, 0.5, 4),
         'num_tokens must be at least 1, got 0.5'),
        (lambda: fidelity.storage_bits_per_byte(64, 8, 16, -4),
         'bytes_per_token must be > 0, got -4'),
    ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()

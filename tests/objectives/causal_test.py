import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.objectives import causal, iblm


def random_batch(seed=0, batch=5, length=7, vocab=6):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(batch, length, vocab)).astype(np.float32)
  targets = rng.integers(vocab, size=(batch, length))
  mask = rng.random((batch, length)) < 0.6
  mask[0] = False
  targets[1] = logits[1].argmax(-1)
  mask[1, 0] = True
  return logits, targets, mask


def test_sums_equal_plain_python():
  logits, targets, mask = random_batch()
  nll, tokens, correct, exact, rows = 0.0, 0, 0, 0, 0
  for b in range(5):
    hits = []
    for t in range(7):
      if mask[b, t]:
        row = logits[b, t].astype(np.float64)
        nll += np.log(np.exp(row).sum()) - row[targets[b, t]]
        tokens += 1
        hits.append(row.argmax() == targets[b, t])
    correct += sum(hits)
    if hits:
      rows += 1
      exact += all(hits)
  sums = causal.token_sums(*map(jnp.asarray, (logits, targets, mask)))
  assert sums.nll == pytest.approx(nll, rel=1e-6)
  found = [float(x) for x in sums[1:]]
  assert found == [tokens, correct, exact, rows]
  assert exact >= 1


def test_padding_changes_nothing():
  logits, targets, mask = random_batch()
  pad = lambda x, value: np.concatenate([x, np.full_like(x, value)], axis=1)
  short = causal.token_sums(*map(jnp.asarray, (logits, targets, mask)))
  long = causal.token_sums(
      jnp.asarray(pad(logits, 3.0)),
      jnp.asarray(pad(targets, 0)),
      jnp.asarray(pad(mask, False)),
  )
  np.testing.assert_allclose(short, long, rtol=1e-6)


def test_nothing_counted_gives_zeros_and_no_nan():
  sums = causal.token_sums(
      jnp.full([2, 3, 4], jnp.nan), jnp.zeros([2, 3], int),
      jnp.zeros([2, 3], bool),
  )
  assert [float(x) for x in sums] == [0.0] * 5


def fake_apply(entropy_N):
  def apply(params, tokens, **kwargs):
    class Outputs:
      logits_BxLxV = params['logits']
      entropy = params['entropy'] if kwargs['collect'] else None

    return Outputs

  params = {'entropy': jnp.asarray(entropy_N, jnp.float32)}
  return apply, params


def objective_value(params, batch, step, cfg, apply):
  value, _ = iblm.losses(
      params,
      batch,
      step,
      jnp.float32(batch['loss_mask'].sum()),
      apply=apply,
      num_layers=4,
      cfg=cfg,
  )
  return value


def test_losses_and_their_weight():
  logits, targets, mask = map(jnp.asarray, random_batch())
  apply, params = fake_apply([1.0, 2.0, 3.0, 4.0])
  params['logits'] = logits
  batch = dict(
      tokens=targets, targets=targets, loss_mask=mask, mask=mask,
      segment_ids=targets, positions=targets,
  )
  cfg = iblm.ObjectiveConfig(weight=0.5)
  value = objective_value(params, batch, 1, cfg, apply)
  sums = causal.token_sums(logits, targets, mask)
  assert float(value.main) == pytest.approx(float(sums.nll / sums.tokens))
  assert float(value.aux) == 3.0  # rotate: layer 1 + 1 % 2
  on = iblm.aux_cotangent(value.aux, 0.5, cfg)
  off = iblm.aux_cotangent(value.aux, 0.0, cfg)
  assert float(on) == 0.5 and float(off) == 0.0
  below = iblm.aux_cotangent(jnp.float32(1e-9), 0.5, cfg)
  assert float(below) == 0.0  # under the floor
  assert float(iblm.aux_cotangent(jnp.nan, 0.5, cfg)) == 0.0
  assert float(iblm.regularizer(value.aux, 0.5, cfg)) == 1.5
  assert float(iblm.regularizer(value.aux, 0.0, cfg)) == 0.0  # not the floor


def test_cross_entropy_alone_measures_nothing():
  apply, params = fake_apply([1.0, 2.0, 3.0, 4.0])
  logits, targets, mask = map(jnp.asarray, random_batch())
  params['logits'] = logits
  batch = dict(
      tokens=targets, targets=targets, loss_mask=mask, mask=mask,
      segment_ids=targets, positions=targets,
  )
  cfg = iblm.ObjectiveConfig(method='ce')
  value, entropy_N = iblm.losses(
      params, batch, 0, jnp.float32(3), apply=apply, num_layers=4, cfg=cfg
  )
  assert entropy_N is None and float(value.aux) == 0.0
  assert jax.tree.leaves(value)[0].dtype == jnp.float32


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(method='sgd'), "method must be one of .* got 'sgd'"),
        (dict(weight=-1.0), r'weight must be finite and >= 0, got -1.0'),
        (dict(weight=float('nan')), 'weight must be finite'),
        (dict(floor='soft'), "floor must be one of .* got 'soft'"),
        (dict(floor_sharpness=0.0), 'floor_sharpness must be > 0'),
        (dict(reduction='spike'), "'rotate' never activates together"),
    ],
)
def test_config_refuses(change, message):
  with pytest.raises(ValueError, match=message):
    iblm.ObjectiveConfig(**change)

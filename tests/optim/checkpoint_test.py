"""The gate survives an orbax checkpoint with the rest of the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from iblm_jax import optim


def test_a_restored_gate_goes_on_as_if_nothing_happened(tmp_path):
  config = optim.GateConfig(patience_main=3, patience_aux=4, ema=0.5)
  tx = optax.chain(optim.gapt(config), optax.adam(1e-2))
  params = {'phase': jnp.arange(4.0)}
  losses = np.random.default_rng(0).uniform(1, 2, (40, 2)).astype(np.float32)

  @jax.jit
  def step(params, state, value, aux_value):
    grads = jax.tree.map(jnp.sin, params)
    updates, state = tx.update(
        grads,
        state,
        params,
        value=value,
        aux_value=aux_value,
        aux_updates=params,
    )
    return optax.apply_updates(params, updates), state

  def run(params, state, rows):
    for value, aux_value in rows:
      params, state = step(params, state, value, aux_value)
    return params, state

  halfway = run(params, tx.init(params), losses[:20])
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'state', halfway)
    checkpointer.wait_until_finished()
    like = jax.eval_shape(lambda: (params, tx.init(params)))
    restored = checkpointer.restore(tmp_path / 'state', like)
  jax.tree.map(np.testing.assert_array_equal, restored, halfway)
  assert jax.tree.map(jax.typeof, restored) == jax.tree.map(
      jax.typeof, halfway
  )

  got, want = run(*restored, losses[20:]), run(*halfway, losses[20:])
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert int(optim.gate_state(got[1]).num_switches) > 2

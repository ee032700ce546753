"""GAPT in a plain optax loop, on a model that is not ours."""

import jax
import jax.numpy as jnp
import optax

from iblm_jax import information, optim

gate = optim.GateConfig(patience_main=20, patience_aux=20, ema=0.95)
tx = optim.with_gapt(optax.adam(0.01), gate, weight=0.5)


def _losses(params, x_NxD, y_N):
  hidden_NxF = jnp.tanh(x_NxD @ params['in'])
  loss = jnp.mean(jnp.square(hidden_NxF @ params['out'] - y_N))
  return loss, information.matrix_entropy(hidden_NxF)


@jax.jit
def _step(params, opt_state, step):
  x_NxD, noise_NxD = jax.random.normal(jax.random.key(step), (2, 256, 4))
  y_N = jnp.sum(jnp.sin(2 * x_NxD) + 0.2 * noise_NxD, axis=1)
  (loss, entropy), (grads, aux_grads) = optim.value_and_grads(
      _losses, params, x_NxD, y_N
  )
  losses = dict(value=loss, aux_value=entropy, aux_updates=aux_grads)
  updates, opt_state = tx.update(grads, opt_state, params, **losses)
  return optax.apply_updates(params, updates), opt_state, loss, entropy


w_DxF = jax.random.normal(jax.random.key(0), (4, 64)) / 2
params = {'in': w_DxF, 'out': jnp.zeros(64)}
opt_state = tx.init(params)
for step in range(401):
  params, opt_state, loss, entropy = _step(params, opt_state, step)
  if step % 20 == 0:
    phase = optim.phase(opt_state)
    print(f'{step=} {loss=:.3f} {entropy=:.3f} {phase=:d}')
print(optim.phase_statistics(optim.gate_state(opt_state)))

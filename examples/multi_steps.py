"""GAPT with gradients accumulated by optax.MultiSteps, on a small model."""

import jax
import jax.numpy as jnp
import optax

from iblm_jax import information, optim

MICRO_BATCHES = 4


def init(key):
  draw = lambda k, m, n: jax.random.normal(k, (m, n)) / m**0.5
  embed, up, down, head = jax.random.split(key, 4)
  return {
      'embed': draw(embed, 32, 32),
      'up': draw(up, 32, 128),
      'down': draw(down, 128, 32),
      'head': draw(head, 32, 32),
  }


def losses(params, tokens_BxL):
  x_BxLxD = params['embed'][tokens_BxL[:, :-1]]
  x_BxLxD += jax.nn.gelu(x_BxLxD @ params['up']) @ params['down']
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
      x_BxLxD @ params['head'], tokens_BxL[:, 1:]
  )
  entropy = information.patch_entropy(x_BxLxD, patch_size=8)
  return jnp.mean(cross_entropy), entropy


def main(steps=400, weight=0.3):
  """Returns [cross-entropy, entropy] of each step, and the gate's state."""
  # The gate sees every micro-batch, so its patience is counted in them, and
  # with_gapt goes around MultiSteps: inside, it would miss three of four.
  patience = 20 * MICRO_BATCHES
  gate = optim.GateConfig(
      patience_main=patience, patience_aux=patience, ema=0.975
  )
  tx = optim.with_gapt(
      optax.MultiSteps(optax.adamw(3e-3), MICRO_BATCHES), gate, weight=weight
  )

  @jax.jit
  def micro_step(params, opt_state, key):
    # Each token is the last one plus 0, 1 or 2: no model is better than log 3.
    tokens_BxL = jnp.cumsum(jax.random.randint(key, (4, 33), 0, 3), axis=1) % 32
    (main, aux), (grads, aux_grads) = optim.value_and_grads(
        losses, params, tokens_BxL
    )
    updates, opt_state = tx.update(
        grads, opt_state, params,
        value=main, aux_value=aux, aux_updates=aux_grads,
    )  # fmt: skip
    return main, aux, optax.apply_updates(params, updates), opt_state

  params = init(jax.random.key(0))
  opt_state = tx.init(params)
  history = []
  for key in jax.random.split(jax.random.key(1), steps * MICRO_BATCHES):
    *values, params, opt_state = micro_step(params, opt_state, key)
    history.append(values)
  per_step = jnp.array(history).reshape(steps, MICRO_BATCHES, 2)
  return per_step.mean(axis=1), optim.gate_state(opt_state)


if __name__ == '__main__':
  history, gate = main()
  print('cross-entropy and entropy:', history[0], '->', history[-1])
  print(optim.phase_statistics(gate))

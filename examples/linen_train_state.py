"""GAPT in a Flax linen loop with a TrainState, on a small language model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state

from iblm_jax import information, optim
from iblm_jax.models import capture


class Block(nn.Module):
  @nn.compact
  def __call__(self, x_BxLxD):
    return x_BxLxD + nn.Dense(32)(nn.gelu(nn.Dense(128)(x_BxLxD)))


class Model(nn.Module):
  @nn.compact
  def __call__(self, tokens_BxL):
    x_BxLxD = nn.Embed(32, 32)(tokens_BxL)
    for _ in range(2):
      x_BxLxD = Block()(x_BxLxD)
    return nn.Dense(32)(x_BxLxD)


def losses(params, tokens_BxL):
  logits_BxLxV, hidden = capture.linen(
      Model(), {'params': params}, tokens_BxL[:, :-1], layers=Block
  )
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
      logits_BxLxV, tokens_BxL[:, 1:]
  )
  entropy = [
      information.patch_entropy(x, patch_size=8) for x in hidden.values()
  ]
  return jnp.mean(cross_entropy), sum(entropy) / len(entropy)


@jax.jit
def train_step(state, key):
  # Each token is the last one plus 0, 1 or 2: no model is better than log 3.
  tokens_BxL = jnp.cumsum(jax.random.randint(key, (16, 33), 0, 3), axis=1) % 32
  (main, aux), (grads, aux_grads) = optim.value_and_grads(
      losses, state.params, tokens_BxL
  )
  return main, aux, optim.apply_gradients(
      state, grads, value=main, aux_value=aux, aux_updates=aux_grads
  )


def main(steps=400, weight=0.3):
  """Returns [cross-entropy, entropy] of each step, and the gate's state."""
  gate = optim.GateConfig(patience_main=20, patience_aux=20, ema=0.9)
  tx = optim.with_gapt(optax.adamw(3e-3), gate, weight=weight)
  params = Model().init(jax.random.key(0), jnp.zeros((1, 32), int))['params']
  state = train_state.TrainState.create(apply_fn=None, params=params, tx=tx)
  history = []
  for key in jax.random.split(jax.random.key(1), steps):
    *values, state = train_step(state, key)
    history.append(values)
  return jnp.array(history), optim.gate_state(state.opt_state)


if __name__ == '__main__':
  history, gate = main()
  print('cross-entropy and entropy:', history[0], '->', history[-1])
  print(optim.phase_statistics(gate))

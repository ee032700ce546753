"""GAPT in an Equinox loop, on a small language model."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from iblm_jax import information, optim


class Model(eqx.Module):
  embed: eqx.nn.Embedding
  blocks: list[eqx.nn.MLP]
  head: eqx.nn.Linear

  def __init__(self, key):
    keys = jax.random.split(key, 4)
    self.embed = eqx.nn.Embedding(32, 32, key=keys[0])
    self.blocks = [
        eqx.nn.MLP(32, 32, 128, 1, jax.nn.gelu, key=k) for k in keys[1:3]
    ]
    self.head = eqx.nn.Linear(32, 32, key=keys[3])

  def __call__(self, tokens_BxL):
    x_BxLxD = self.embed.weight[tokens_BxL]
    hidden = []
    for block in self.blocks:
      x_BxLxD += jax.vmap(jax.vmap(block))(x_BxLxD)
      hidden.append(x_BxLxD)
    return jax.vmap(jax.vmap(self.head))(x_BxLxD), hidden


def losses(arrays, static, tokens_BxL):
  logits_BxLxV, hidden = eqx.combine(arrays, static)(tokens_BxL[:, :-1])
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
      logits_BxLxV, tokens_BxL[:, 1:]
  )
  entropy = [information.patch_entropy(x, patch_size=8) for x in hidden]
  return jnp.mean(cross_entropy), sum(entropy) / len(entropy)


@eqx.filter_jit
def train_step(model, tx, opt_state, key):
  # Each token is the last one plus 0, 1 or 2: no model is better than log 3.
  tokens_BxL = jnp.cumsum(jax.random.randint(key, (16, 33), 0, 3), axis=1) % 32
  arrays, static = eqx.partition(model, eqx.is_inexact_array)
  (main, aux), (grads, aux_grads) = optim.value_and_grads(
      losses, arrays, static, tokens_BxL
  )
  updates, opt_state = tx.update(
      grads, opt_state, arrays, value=main, aux_value=aux, aux_updates=aux_grads
  )
  return main, aux, eqx.apply_updates(model, updates), opt_state


def main(steps=400, weight=0.3):
  """Returns [cross-entropy, entropy] of each step, and the gate's state."""
  gate = optim.GateConfig(patience_main=20, patience_aux=20, ema=0.9)
  tx = optim.with_gapt(optax.adamw(3e-3), gate, weight=weight)
  model = Model(jax.random.key(0))
  opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))
  history = []
  for key in jax.random.split(jax.random.key(1), steps):
    *values, model, opt_state = train_step(model, tx, opt_state, key)
    history.append(values)
  return jnp.array(history), optim.gate_state(opt_state)


if __name__ == '__main__':
  history, gate = main()
  print('cross-entropy and entropy:', history[0], '->', history[-1])
  print(optim.phase_statistics(gate))

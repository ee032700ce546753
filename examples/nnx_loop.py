"""GAPT in a Flax nnx loop with an nnx.Optimizer, on a small language model."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from iblm_jax import information, optim
from iblm_jax.models import capture


class Block(nnx.Module):
  def __init__(self, rngs):
    self.up = nnx.Linear(32, 128, rngs=rngs)
    self.down = nnx.Linear(128, 32, rngs=rngs)

  def __call__(self, x_BxLxD):
    return x_BxLxD + self.down(nnx.gelu(self.up(x_BxLxD)))


class Model(nnx.Module):
  def __init__(self, rngs):
    self.embed = nnx.Embed(32, 32, rngs=rngs)
    self.blocks = nnx.List([Block(rngs), Block(rngs)])
    self.head = nnx.Linear(32, 32, rngs=rngs)

  def __call__(self, tokens_BxL):
    x_BxLxD = self.embed(tokens_BxL)
    for block in self.blocks:
      x_BxLxD = block(x_BxLxD)
    return self.head(x_BxLxD)


@nnx.jit
def train_step(model, optimizer, key):
  # Each token is the last one plus 0, 1 or 2: no model is better than log 3.
  tokens_BxL = jnp.cumsum(jax.random.randint(key, (16, 33), 0, 3), axis=1) % 32
  definition, params, rest = nnx.split(model, nnx.Param, ...)

  def losses(params):
    model = nnx.merge(definition, params, rest)
    logits_BxLxV, hidden = capture.nnx(model, tokens_BxL[:, :-1], layers=Block)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
        logits_BxLxV, tokens_BxL[:, 1:]
    )
    entropy = [
        information.patch_entropy(x, patch_size=8) for x in hidden.values()
    ]
    return jnp.mean(cross_entropy), sum(entropy) / len(entropy)

  (main, aux), (grads, aux_grads) = optim.value_and_grads(losses, params)
  optimizer.update(
      model, grads, value=main, aux_value=aux, aux_updates=aux_grads
  )
  return main, aux


def main(steps=400, weight=0.3):
  """Returns [cross-entropy, entropy] of each step, and the gate's state."""
  gate = optim.GateConfig(patience_main=20, patience_aux=20, ema=0.9)
  tx = optim.with_gapt(optax.adamw(3e-3), gate, weight=weight)
  model = Model(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  keys = jax.random.split(jax.random.key(1), steps)
  history = [train_step(model, optimizer, key) for key in keys]
  return jnp.array(history), optim.gate_state(nnx.as_pure(optimizer.opt_state))


if __name__ == '__main__':
  history, gate = main()
  print('cross-entropy and entropy:', history[0], '->', history[-1])
  print(optim.phase_statistics(gate))

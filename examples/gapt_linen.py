"""Adds GAPT to a Flax linen loop with a TrainState: see the lines with optim."""
import jax, optax
from flax import linen as nn
from flax.training.train_state import TrainState
from iblm_jax import information, optim

body, head = nn.Sequential([nn.Embed(32, 64), nn.Dense(64), nn.gelu]), nn.Dense(32)
def losses(params, x):
  hidden = body.apply(params['body'], x[:, :-1])
  nll = optax.softmax_cross_entropy_with_integer_labels(head.apply(params['head'], hidden), x[:, 1:])
  return nll.mean(), information.patch_entropy(hidden, patch_size=8)
params = {'body': body.init(jax.random.key(0), jax.numpy.zeros((1, 8), int)), 'head': head.init(jax.random.key(1), jax.numpy.zeros((1, 64)))}
state = TrainState.create(apply_fn=None, params=params, tx=optim.with_gapt(optax.adam(3e-3), optim.GateConfig(20, 20, ema=0.9), weight=0.3))
for x in jax.random.randint(jax.random.key(2), (300, 16, 33), 0, 3).cumsum(2) % 32:  # no model is better than log 3
  (main, aux), (grads, aux_grads) = jax.jit(optim.value_and_grads, static_argnums=0)(losses, state.params, x)
  state = optim.apply_gradients(state, grads, value=main, aux_value=aux, aux_updates=aux_grads)
print(f'cross-entropy {main:.3f}, entropy {aux:.3f}', optim.phase_statistics(optim.gate_state(state.opt_state)))

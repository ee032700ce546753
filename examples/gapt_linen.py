"""Adds GAPT to a Flax linen loop with a TrainState: see the lines with optim."""
import jax, optax
from flax import linen as nn
from flax.training.train_state import TrainState
from iblm_jax import information, optim
model = nn.Sequential([nn.Embed(32, 64), nn.Dense(64), nn.gelu])
def losses(params, x):
  hidden, table = model.apply(params, x[:, :-1]), params['params']['layers_0']['embedding']
  return optax.softmax_cross_entropy_with_integer_labels(hidden @ table.T, x[:, 1:]).mean(), information.patch_entropy(hidden, patch_size=8)
gapt = optim.with_gapt(optax.adam(3e-3), optim.GateConfig(20, 20, ema=0.9), weight=0.3)
state = TrainState.create(apply_fn=None, params=model.init(jax.random.key(0), jax.numpy.eye(8, dtype=int)), tx=gapt)
for x in jax.random.randint(jax.random.key(1), (300, 16, 33), 0, 3).cumsum(2) % 32:  # no model is better than log 3
  values, grads = jax.jit(optim.value_and_grads, static_argnums=0)(losses, state.params, x)
  state = optim.apply_gradients(state, grads[0], value=values[0], aux_value=values[1], aux_updates=grads[1])
print('cross-entropy and entropy', *values, optim.phase_statistics(optim.gate_state(state.opt_state)))

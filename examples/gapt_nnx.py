"""Adds GAPT to a Flax nnx loop with nnx.Optimizer: see the lines with optim."""
import jax, optax
from flax import nnx
from iblm_jax import information, optim
model = nnx.Sequential(nnx.Embed(32, 64, rngs=nnx.Rngs(0)), nnx.Linear(64, 64, rngs=nnx.Rngs(1)), nnx.gelu)
def losses(params, graph, x):
  hidden = nnx.merge(graph, params)(x[:, :-1])
  logits = hidden @ params['layers'][0]['embedding'][...].T
  return optax.softmax_cross_entropy_with_integer_labels(logits, x[:, 1:]).mean(), information.patch_entropy(hidden, patch_size=8)
tx = optim.with_gapt(optax.adam(3e-3), optim.GateConfig(20, 20, ema=0.9), weight=0.3)
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
for x in jax.random.randint(jax.random.key(1), (300, 16, 33), 0, 3).cumsum(2) % 32:  # no model is better than log 3
  values, grads = jax.jit(optim.value_and_grads, static_argnums=(0, 2))(losses, nnx.state(model), nnx.graphdef(model), x)
  optimizer.update(model, grads[0], value=values[0], aux_value=values[1], aux_updates=grads[1])
print('cross-entropy and entropy', *values, optim.phase_statistics(optim.gate_state(nnx.as_pure(optimizer.opt_state))))

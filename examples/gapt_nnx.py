"""Adds GAPT to a Flax nnx loop with nnx.Optimizer: see the lines with optim."""
import jax, optax
from flax import nnx
from iblm_jax import information, optim

model = nnx.Dict(body=nnx.Sequential(nnx.Embed(32, 64, rngs=nnx.Rngs(0)), nnx.Linear(64, 64, rngs=nnx.Rngs(1)), nnx.gelu), head=nnx.Linear(64, 32, rngs=nnx.Rngs(2)))
def losses(params, graph, x):
  model = nnx.merge(graph, params)
  hidden = model.body(x[:, :-1])
  nll = optax.softmax_cross_entropy_with_integer_labels(model.head(hidden), x[:, 1:])
  return nll.mean(), information.patch_entropy(hidden, patch_size=8)
optimizer = nnx.Optimizer(model, optim.with_gapt(optax.adam(3e-3), optim.GateConfig(20, 20, ema=0.9), weight=0.3), wrt=nnx.Param)
for x in jax.random.randint(jax.random.key(2), (300, 16, 33), 0, 3).cumsum(2) % 32:  # no model is better than log 3
  (main, aux), (grads, aux_grads) = jax.jit(optim.value_and_grads, static_argnums=(0, 2))(losses, nnx.state(model), nnx.graphdef(model), x)
  optimizer.update(model, grads, value=main, aux_value=aux, aux_updates=aux_grads)
print(f'cross-entropy {main:.3f}, entropy {aux:.3f}', optim.phase_statistics(optim.gate_state(nnx.as_pure(optimizer.opt_state))))

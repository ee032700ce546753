"""The hidden states of other people's models, to measure or compress them.

Each function runs a Flax model and returns, beside its output, what its layers
returned: arrays that `information.patch_entropy` takes as they are.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util


def linen(
    module: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    layers: type | tuple[type, ...],
    **kwargs: Any,
) -> tuple[Any, dict[str, jax.Array]]:
  """Applies a linen module and captures what its layers return.

  Args:
    module: the model; it does not have to know about the capture.
    variables: as for `module.apply`, for example `{'params': params}`.
    *args: what the model is called with.
    layers: the class of the modules whose `__call__` is captured, or several.
    **kwargs: more arguments of `module.apply`, such as `rngs`, but not
      `mutable`.

  Returns:
    The output of the model, and the captured arrays by the path of the layer,
    in the order of the calls; a second call of one layer is 'path#2'. Of a
    layer that returns a tuple, such as a hidden state and a cache, it is the
    first entry. Layers inside `nn.scan` are one array with an axis of layers,
    which needs `variable_axes={'intermediates': 0}` there.

  Raises:
    ValueError: no layer of that class was called.

  Examples:
    >>> import jax.numpy as jnp
    >>> model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(2)])
    >>> x_BxLxD = jnp.ones((1, 8, 3))
    >>> variables = model.init(jax.random.key(0), x_BxLxD)
    >>> _, hidden = linen(model, variables, x_BxLxD, layers=nn.Dense)
    >>> {path: x.shape for path, x in hidden.items()}
    {'layers_0': (1, 8, 4), 'layers_2': (1, 8, 2)}
  """
  is_layer = lambda module, method: (
      isinstance(module, layers) and method == '__call__'
  )
  outputs, collections = module.apply(
      variables,
      *args,
      capture_intermediates=is_layer,
      mutable=['intermediates'],
      **kwargs,
  )
  flat = traverse_util.flatten_dict(collections.get('intermediates', {}))
  return outputs, _named({path[:-1]: x for path, x in flat.items()}, layers)


def nnx(
    model: Any,
    *args: Any,
    layers: type | tuple[type, ...],
    **kwargs: Any,
) -> tuple[Any, dict[str, jax.Array]]:
  """Calls an nnx model and captures what its layers return.

  Args:
    model: an `nnx.Module`; it does not have to know about the capture.
    *args: what the model is called with.
    layers: the class of the modules whose `__call__` is captured, or several.
      The class itself must define `__call__`, not a class that it extends.
    **kwargs: more arguments of the call.

  Returns:
    The output of the model, and the captured arrays by the path of the layer,
    as `linen` does, in the order of the model's attributes.

  Raises:
    ValueError: no layer of that class was called.

  Examples:
    >>> import jax.numpy as jnp
    >>> from flax import nnx as flax_nnx
    >>> rngs = flax_nnx.Rngs(0)
    >>> model = flax_nnx.Sequential(
    ...     flax_nnx.Linear(3, 4, rngs=rngs), jnp.tanh,
    ...     flax_nnx.Linear(4, 2, rngs=rngs))
    >>> _, hidden = nnx(model, jnp.ones((1, 8, 3)), layers=flax_nnx.Linear)
    >>> {path: x.shape for path, x in hidden.items()}
    {'layers/0': (1, 8, 4), 'layers/2': (1, 8, 2)}
  """
  # linen alone does not import it, which takes a while.
  from flax import nnx as lib

  forward = lib.capture(
      model, lib.Intermediate, method_outputs=lib.Intermediate
  )
  outputs, captured = forward(*args, **kwargs)
  calls = {}
  for path, module in lib.iter_modules(model):
    if isinstance(module, layers):
      state = captured
      for part in (*path, '__call__'):
        state = state.get(part, {})
      calls[path] = state.get_value() if state else ()
  return outputs, _named(calls, layers)


def _named(calls, layers):
  """The results of every call by name: 'path', and 'path#2' of the second."""
  hidden = {}
  for path, results in calls.items():
    for i, result in enumerate(results):
      name = '/'.join(map(str, path)) + (f'#{i + 1}' if i else '')
      hidden[name] = result[0] if isinstance(result, tuple) else result
  if not hidden:
    raise ValueError(
        'layers must be a class of modules that the model calls, or several,'
        f' got {layers!r}, of which none was called.'
    )
  return hidden

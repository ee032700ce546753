"""Times patch entropy and its gradient, by order and patch size.

Beside it, in the same rounds: the entropy through `jnp.linalg.eigvalsh` and
plain autodiff. From the root of the project:

  python benchmarks/entropy.py
  python benchmarks/entropy.py --patch_sizes=8 --orders=1.5,2 --repeats=50
"""

import argparse
import functools
import math
import pathlib
import statistics
import sys

import jax
import jax.numpy as jnp
import timing

# Run as a program, the folder on the path is this file's.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from iblm_jax import information  # noqa: E402


def eigvalsh_entropy(x, *, patch_size, alpha):
  """The entropy as one would write it; its gradient by autodiff."""
  batch, length, width = x.shape
  z = x.reshape(batch, length // patch_size, patch_size, width)
  if patch_size > width:
    z = jnp.swapaxes(z, -1, -2)
  k = jnp.einsum('bwnd,bwmd->bwnm', z, z, precision='highest')
  k /= jnp.trace(k, axis1=-2, axis2=-1)[..., None, None]
  p = jnp.maximum(jnp.linalg.eigvalsh(k), 1e-12)
  if alpha == 1:
    s = -jnp.sum(p * jnp.log(p), axis=-1)
  elif math.isinf(alpha):
    s = -jnp.log(jnp.max(p, axis=-1))
  else:
    s = jnp.log(jnp.sum(p**alpha, axis=-1)) / (1 - alpha)
  return jnp.mean(s)


def _numbers(kind):
  return lambda text: [kind(item) for item in text.split(',')]


def _arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--shape', type=_numbers(int), default=[16, 512, 256])
  parser.add_argument(
      '--orders', type=_numbers(float), default=[1, 1.5, 2, 3, math.inf]
  )
  parser.add_argument(
      '--patch_sizes', type=_numbers(int), default=[8, 32, 128, 512]
  )
  parser.add_argument('--repeats', type=int, default=11)
  return parser.parse_args()


def _milliseconds(seconds):
  median, low = statistics.median(seconds), min(seconds)
  return f'{1e3 * median:9.2f} {1e3 * low:9.2f}'


def main():
  args = _arguments()
  x = jax.random.normal(jax.random.key(0), tuple(args.shape))
  print(f'jax {jax.__version__}, {jax.devices()[0].device_kind},'
        f' {len(jax.devices())} device(s), x {x.shape} {x.dtype}')

  functions = {}
  entropies = {'ours': information.patch_entropy, 'eigvalsh': eigvalsh_entropy}

  def add(patch, alpha):
    for name, entropy in entropies.items():
      value = functools.partial(entropy, patch_size=patch, alpha=alpha)
      for mode, f in (
          ('value', value), ('value+grad', jax.value_and_grad(value)),
      ):
        functions[patch, alpha, mode, name] = functools.partial(jax.jit(f), x)

  add(8, 2.0)  # what the excess is counted from
  for patch in args.patch_sizes:
    for alpha in args.orders:
      add(patch, alpha)
  seconds = timing.interleaved(functions, args.repeats)

  print('milliseconds; ratio ours / eigvalsh with a 95 % interval; excess of'
        ' ours over order 2 at patch 8, medians')
  print(f'{"patch":>5} {"order":>5} {"":10} {"ours":>9} {"min":>9}'
        f' {"eigvalsh":>9} {"min":>9}  ratio [low, high]    excess')
  for patch, alpha, mode, name in functions:
    if name != 'ours':
      continue
    ours = seconds[patch, alpha, mode, 'ours']
    plain = seconds[patch, alpha, mode, 'eigvalsh']
    ratio, low, high = timing.median_ratio(ours, plain)
    closed = seconds[8, 2.0, mode, 'ours']
    excess = statistics.median(
        1e3 * (a - b) for a, b in zip(ours, closed, strict=True)
    )
    print(f'{patch:5d} {alpha:5g} {mode:10} {_milliseconds(ours)}'
          f' {_milliseconds(plain)}  {ratio:5.2f} [{low:.2f}, {high:.2f}]'
          f' {excess:8.2f}')


if __name__ == '__main__':
  main()

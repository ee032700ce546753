"""Times projecting the adapters of GPT-2 small, by kind of projector.

D = 351,744 adapter numbers (rank 4 on query and value of 12 blocks and on the
head), d = 50,000. 'floor' is the time that reading the factors once and the
arithmetic of the cheaper order take at the speed of a sum and of a matrix
product of this machine, both measured in the same rounds. From the root of the
project:

  python benchmarks/projectors.py
  python benchmarks/projectors.py --kinds=kron,sparse --repeats=100
"""

import argparse
import functools
import math
import pathlib
import statistics
import sys

import jax
import jax.numpy as jnp
import numpy as np
import timing

# Run as a program, the folder on the path is this file's.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from iblm_jax import sublora  # noqa: E402
from iblm_jax.models import config, decoder  # noqa: E402
from iblm_jax.sublora import kron  # noqa: E402

MATMUL = 2048
READ = 16 * 2**20  # numbers

VARIANTS = {
    'kron': dict(kind='kron'),
    'kron sign': dict(kind='kron', entries='sign'),
    'kron drawn': dict(kind='kron', hold=False),
    'kron sign drawn': dict(kind='kron', entries='sign', hold=False),
    'rdkronqr': dict(kind='rdkronqr'),
    'fastfood': dict(kind='fastfood'),
    'sparse': dict(kind='sparse'),
}


def adapters(rank):
  """Shapes of GPT-2 small's adapters."""
  cfg = config.gpt2('small', vocab_size=50_304, tie_embeddings=False)
  params = jax.eval_shape(
      lambda key: decoder.init(key, cfg), jax.random.key(0)
  )
  return jax.eval_shape(
      lambda key: sublora.lora_init(
          params, sublora.LoraConfig(rank=rank), key
      ),
      jax.random.key(0),
  )


def kron_flop(projector):
  """Arithmetic of projecting once, by the cheaper order of each leaf."""
  d1, d2 = projector.plan.dims
  flop = 0
  for leaf in projector.plan.leaves:
    cut = kron.choose_cut(leaf.matrix_shape, (d1, d2))
    n1, n2 = math.prod(cut.rows), math.prod(cut.cols)
    flop += (
        2 * (leaf.layers or 1)
        * min(n1 * d2 * (d1 + n2), n2 * d1 * (d2 + n1))
    )
  return flop


def kron_floor(projector, flop_per_second, bytes_per_second):
  """Seconds of the arithmetic alone and of reading the factors alone."""
  return max(
      kron_flop(projector) / flop_per_second,
      projector.nbytes / bytes_per_second,
  )


def _arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
      '--kinds', type=lambda text: text.split(','), default=list(VARIANTS)
  )
  parser.add_argument('--rank', type=int, default=4)
  parser.add_argument('--dims', type=int, nargs=2, default=[200, 250])
  parser.add_argument('--repeats', type=int, default=30)
  return parser.parse_args()


def main():
  args = _arguments()
  tree = adapters(args.rank)
  key = jax.random.key(0)
  dims = tuple(args.dims)
  size = math.prod(dims)
  w_d = jnp.asarray(
      np.random.default_rng(0).standard_normal(size), jnp.float32
  )
  apply = jax.jit(lambda projector, w_d: projector.apply(w_d))
  transpose = jax.jit(lambda projector, tree: projector.transpose(tree))

  square = jnp.ones([MATMUL, MATMUL])
  long = jnp.ones(READ)
  functions = {
      'matmul': functools.partial(jax.jit(lambda x: x @ x), square),
      'read': functools.partial(jax.jit(jnp.sum), long),
  }
  made = {}
  for name in args.kinds:
    options = dict(VARIANTS[name])
    made[name] = sublora.make_projector(
        options.pop('kind'), tree, dims, key, **options
    )
    theta = apply(made[name], w_d)
    functions[name, 'apply'] = functools.partial(apply, made[name], w_d)
    functions[name, 'transpose'] = functools.partial(
        transpose, made[name], theta
    )
  seconds = timing.interleaved(functions, args.repeats)
  best = {name: min(times) for name, times in seconds.items()}

  flop_per_second = 2 * MATMUL**3 / best['matmul']
  bytes_per_second = 4 * READ / best['read']  # of what is read
  print(f'jax {jax.__version__}, {jax.devices()[0].device_kind};'
        f' d = {dims[0]} x {dims[1]}; {MATMUL}^3 product'
        f' {1e3 * best["matmul"]:.1f} ms ({flop_per_second / 1e9:.0f} GFLOP/s),'
        f' reading {bytes_per_second / 1e9:.1f} GB/s')
  print('milliseconds: least and median; in units of the matrix product; MB')
  print(f'{"":16} {"apply":>8} {"median":>8} {"/matmul":>8} {"transp.":>8}'
        f' {"median":>8} {"/matmul":>8} {"held":>7} {"floor":>6}')
  for name, projector in made.items():
    cells = []
    for direction in ('apply', 'transpose'):
      low = best[name, direction]
      middle = statistics.median(seconds[name, direction])
      cells.append(f'{1e3 * low:8.2f} {1e3 * middle:8.2f}'
                   f' {low / best["matmul"]:8.4f}')
    floor = ''
    if projector.plan.kind == 'kron':
      least = kron_floor(projector, flop_per_second, bytes_per_second)
      floor = f'{1e3 * least:6.2f}'
    print(f'{name:16} {cells[0]} {cells[1]} {projector.nbytes / 1e6:7.1f}'
          f' {floor}')
  print(f'D = {next(iter(made.values())).num_parameters:,}')


if __name__ == '__main__':
  main()

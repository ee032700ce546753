"""Refuses what no memory here can hold, before anything is compiled."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from iblm_jax.models import families
from iblm_jax.sublora import paths
from iblm_jax.training import options

# A petabyte on a device: compilers abort at such sizes instead of failing.
_MOST = 2**50


def state_bytes(state: Any) -> int:
  """Returns the bytes of abstract, sharded arrays on one device.

  >>> import jax.numpy as jnp
  >>> one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  >>> state_bytes([jax.ShapeDtypeStruct((3, 2), jnp.float32, sharding=one)])
  24
  """
  return sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(state)
  )


@contextlib.contextmanager
def counting(cfg: options.RunConfig) -> Iterator[None]:
  """Makes a ValueError of sizes inside the context that no computer counts."""
  try:
    yield
  except OverflowError as error:
    raise ValueError(
        f'the model must be of sizes that fit into 64 bits, got {_sizes(cfg)}.'
    ) from error


def check_state(cfg: options.RunConfig, state: Any) -> None:
  """Raises ValueError where no device that there is holds the state."""
  _refuse_beyond(_MOST, 'any device has', cfg, state)


def check_memory(
    cfg: options.RunConfig, state: Any, mesh: jax.sharding.Mesh, length: int
) -> None:
  """Makes sure that memory here holds the least that training needs.

  What a step needs is more, and the compiler's to say (`--compile_only`).

  Args:
    cfg: The run.
    state: Abstract training state, sharded.
    mesh: Its devices.
    length: Tokens of a row.

  Raises:
    ValueError: State and the states of one layer are more than a device has,
      or the batch is more than this host has; it names the options.
  """
  here = mesh.local_devices
  if not here:  # compiled for machines that are elsewhere
    return
  host = _host_memory()
  limit = (here[0].memory_stats() or {}).get('bytes_limit')
  if limit is None and here[0].platform == 'cpu':
    limit = host and host // len(here)
  # The head reads the states of all tokens at once, however they are split.
  head = list(families.stacks(cfg.model).values())[-1:]
  width = sum(stack.width * stack.compute_dtype.itemsize for stack in head)
  tokens = cfg.data.batch_size * length
  states = tokens * width // cfg.train.accumulation // mesh.size
  _refuse_beyond(limit, 'a device has here', cfg, state, states)
  batch = 12 * tokens // jax.process_count()
  if host is not None and batch > host:
    raise ValueError(
        f'data.batch_size must fit into the {_gigabytes(host)} of this host,'
        f' got {cfg.data.batch_size} rows of {length} tokens, which take'
        f' {_gigabytes(batch)}.'
    )


def check_prompt(model: families.ModelConfig, length: int) -> None:
  """Raises ValueError where a CPU cannot hold the scores of all its tokens."""
  host = _host_memory()
  if host is None or jax.default_backend() != 'cpu':
    return
  stacks = families.stacks(model).values()
  heads = max((stack.num_heads for stack in stacks), default=0)
  scores = 4 * heads * length**2
  if scores > host:
    raise ValueError(
        f'the prompt must fit into the {_gigabytes(host)} of this host, got'
        f' {length} tokens, whose attention takes {_gigabytes(scores)}.'
    )


def _refuse_beyond(limit, whose, cfg, state, more=0):
  needed = state_bytes(state) + more
  if limit is None or needed <= limit:
    return
  names, leaves, _ = paths.flatten(state.params)
  name, leaf = max(
      zip(names, leaves, strict=True), key=lambda item: math.prod(item[1].shape)
  )
  raise ValueError(
      f'the run takes at least {_gigabytes(needed)} a device, more than the'
      f' {_gigabytes(limit)} that {whose}: got {_sizes(cfg)}; the largest'
      f' parameter is {name} of shape {tuple(leaf.shape)}.'
  )


def _sizes(cfg):
  found = [
      f'model.{name and name + "."}{field}={getattr(stack, field)}'
      for name, stack in families.stacks(cfg.model).items()
      for field in ('num_layers', 'width', 'hidden_width')
  ]
  return ', '.join([
      *found,
      f'model.vocab_size={cfg.model.vocab_size}',
      f'data.batch_size={cfg.data.batch_size}',
  ]).replace('hidden_width', 'mlp_width')


def _gigabytes(count):
  return f'{count / 1e9:,.1f} GB'


def _host_memory():
  """Bytes of this host's memory and swap; None where nothing tells them."""
  try:
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (AttributeError, ValueError, OSError):  # not POSIX
    return None
  try:
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
    swap = [line.split()[1] for line in lines if line.startswith('SwapTotal:')]
    return memory + 1024 * sum(map(int, swap))
  except (ValueError, OSError):  # not Linux
    return memory

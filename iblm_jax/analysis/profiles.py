"""Entropy profiles of the layers of trained models.

Every experiment reports them beside the uncentred entropy, which an offset that
all tokens share can lower. See `information.compression_profile`.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from iblm_jax.data import batches as batches_lib
from iblm_jax.data import sources
from iblm_jax.information import profile
from iblm_jax.models import decoder, families, outputs
from iblm_jax.training import config, options, restoring

# Reported for every layer, not for the middle ones alone.
_BY_LAYER = (
    'entropy/order_2',
    'entropy_centered/order_2',
    'entropy_normalized/order_2',
    'mean_share',
)
_READ = ('tokens', 'mask', 'segment_ids', 'positions')


def load_params(
    workdir: epath.PathLike, step: int | None = None
) -> tuple[options.RunConfig, Any]:
  """Reads the config and the parameters of a run from a checkpoint.

  Args:
    step: Of the checkpoint; None for the newest.

  Returns:
    The options of the run, and the parameters on one device.

  Raises:
    ValueError: The folder holds no run, or not the checkpoint.
    CheckpointError: None of the checkpoints is intact.
  """
  cfg = config.read_run(workdir)
  return cfg, restoring.restore_params(cfg, workdir, step=step).params


def layer_profiles(
    params: Any,
    model_cfg: decoder.DecoderConfig,
    batches: Iterable[batches_lib.Batch],
    *,
    patch_sizes: Sequence[int],
) -> dict[int, dict[str, np.ndarray]]:
  """Averages the profile of the residual stream after every block over batches.

  The streams of all layers of a batch are held at once, N B L D numbers.

  Args:
    batches: Batches of one shape [B, L]. Each is weighted by the number of its
      rows that are not padding.
    patch_sizes: Numbers of tokens in a window, each in [2, L].

  Returns:
    By patch size, the values of `compression_profile` by name, float64 [N].

  Raises:
    ValueError: There is no batch, or a patch size is out of its range.
  """
  total, rows = None, 0
  for batch in batches:
    count = int(batch['mask'].any(axis=1).sum())
    hidden_NxBxLxD = streams(params, batch, model_cfg)
    found = {}
    for size in patch_sizes:
      # A program each: where one holds several of LAPACK's decompositions that
      # may overlap, XLA's CPU threads can wait for each other for ever.
      measured = jax.device_get(
          _profiles(
              hidden_NxBxLxD,
              batch['mask'],
              batch['segment_ids'],
              patch_size=size,
          )
      )
      found[size] = {
          name: count * np.asarray(a, np.float64)
          for name, a in measured.items()
      }
    total = found if total is None else jax.tree.map(np.add, total, found)
    rows += count
  if not rows:
    raise ValueError('batches must hold at least one row, got none.')
  return jax.tree.map(lambda a: a / rows, total)


def profile_row(
    params: Any,
    cfg: options.RunConfig,
    split: str | None = None,
    max_batches: int | None = None,
    source: batches_lib.Source | None = None,
) -> dict[str, float]:
  """Measures the profile of a run's layers as metrics for a row of results.

  Args:
    cfg: The run. Windows have `model.entropy.patch_size` tokens, and the middle
      layers are those that `objective.skip_first` and `skip_last` leave.
    split: The evaluation set; None for the first one.
    max_batches: Number of batches to read; None for all.
    source: The evaluation set, if the caller has it, in place of `split`.

  Returns:
    Every value of `compression_profile` as a mean over the middle layers, and
    'entropy/order_2/layer_00', 'entropy_centered/order_2/layer_00',
    'mean_share/layer_00' and so on of every layer.

  Raises:
    ValueError: There is no such set.
  """
  model = families.the_decoder(cfg.model, 'a profile')
  size = model.entropy.patch_size
  found = layer_profiles(
      params,
      model,
      eval_batches(source or eval_source(cfg.data, split), max_batches),
      patch_sizes=(size,),
  )[size]
  middle = slice(
      cfg.objective.skip_first, model.num_layers - cfg.objective.skip_last
  )
  row = {name: float(a_N[middle].mean()) for name, a_N in found.items()}
  for name in _BY_LAYER:
    for layer, value in enumerate(found[name]):
      row[f'{name}/layer_{layer:02d}'] = float(value)
  return row


def eval_source(
    data: sources.DataConfig, split: str | None = None
) -> batches_lib.Source:
  """Makes an evaluation set of a run, by default the first.

  Raises:
    ValueError: There is no such set, or its files cannot be used.
  """
  names = sources.split_names(data)[1:]
  if not names:
    raise ValueError('the data of this run has no evaluation set (holdout=0).')
  split = names[0] if split is None else split
  if split not in names:
    raise ValueError(f'split must be one of {names}, got {split!r}.')
  return sources.make_source(data, split)


def eval_batches(
    source: batches_lib.Source, max_batches: int | None = None
) -> Iterable[batches_lib.Batch]:
  """Returns the first batches of an evaluation set, or all of them for None."""
  count = source.num_eval_batches
  assert count is not None  # an evaluation set has an end
  return map(source.batch, itertools.islice(range(count), max_batches))


def streams(
    params: Any, batch: batches_lib.Batch, cfg: families.ModelConfig
) -> jax.Array:
  """Computes the residual streams after every block, float32 [N, B, L, D]."""
  return _streams(params, {name: batch[name] for name in _READ}, cfg=cfg)


@functools.partial(jax.jit, static_argnames='cfg')
def _streams(
    params: Any, batch: Mapping[str, jax.Array], *, cfg: families.ModelConfig
) -> jax.Array:
  hidden = collected(params, batch, cfg).hidden
  assert hidden is not None
  return hidden.astype(jnp.float32)


def collected(
    params: Any, batch: Mapping[str, jax.Array], cfg: families.ModelConfig
) -> outputs.Outputs:
  """Applies a model of any family and collects the states of its layers.

  Raises:
    ValueError: No layer of the model is measured.
  """
  if not families.num_layers(cfg):
    raise ValueError(
        f'the family {families.family(cfg).name!r} has no layers to measure.'
    )
  tokens_BxL, *rest = (batch[name] for name in _READ)
  options = dict(zip(_READ[1:], rest, strict=True))
  return families.apply(params, tokens_BxL, cfg, collect='hidden', **options)


@functools.partial(jax.jit, static_argnames='patch_size')
def _profiles(
    hidden_NxBxLxD: jax.Array,
    mask_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    patch_size: int,
) -> dict[str, jax.Array]:
  of_layer = lambda x_BxLxD: profile.compression_profile(
      x_BxLxD,
      patch_size=patch_size,
      mask=mask_BxL,
      segment_ids=segment_ids_BxL,
  )
  # One layer after the other: a layer's Gram matrices are larger than it.
  return jax.lax.map(of_layer, hidden_NxBxLxD)

"""What the layers of a model hold, say and keep of a set of texts."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.analysis import invariance, layers, profiles
from iblm_jax.data import batches as batches_lib
from iblm_jax.information import fidelity, prediction
from iblm_jax.models import decoder, families
from iblm_jax.objectives import tasks

# Texts whose embeddings are told apart; each is held in every view and layer.
_MOST_TEXTS = 512
# Positions of a row whose next token each layer is asked for.
_ASKED = 16
_READ = ('tokens', 'mask', 'segment_ids', 'positions')
_NEEDED = (*_READ, 'targets', 'loss_mask')
Batches = Iterable[batches_lib.Batch] | Callable[
    [], Iterable[batches_lib.Batch]
]


class Survey(NamedTuple):
  """What `survey` finds.

  Attributes:
    prompts: By name, float32 [N, P], see `layers.layer_statistics`; of a
      decoder also 'next_token/entropy' and 'next_token/cross_entropy', nats.
    data: By name, float32 [N], likewise; with views also 'infonce', 'lidar'
      and 'dime'.
    model: Numbers of the whole model: 'cross_entropy' and
      'prediction_entropy' (nats per token), 'perplexity', 'tokens' (predicted),
      'prompts', and where the bytes are known 'bits_per_byte'.
  """

  prompts: layers.Arrays
  data: layers.Arrays
  model: dict[str, float]


def survey(
    params: Any,
    cfg: Any,
    batches: Batches,
    *,
    views: int = 4,
    rate: float = 0.1,
    seed: int = 0,
    count_bytes: Callable[[Mapping[str, Any]], int] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Survey:
  """Measures every layer of a model on batches of text.

  Args:
    params: The model's parameters.
    cfg: Config of the model, of any family whose layers have a state for each
      token of a row.
    batches: Batches of one shape [B, L], such as those of a source that
      `data.as_source` makes, or a function that gives them.
    views: In how many ways each text is altered, at least 2, or 0 to leave out
      what needs it. The first 512 texts are.
    rate: Share of tokens that an alteration replaces.
    seed: Of the alterations and of the sample of tokens.
    count_bytes: Gives the number of bytes of a batch's counted targets.
    report: Takes a line after each batch.

  Returns:
    `Survey`.

  Raises:
    ValueError: The model's layers cannot be measured, an option is out of its
      range, or no row has three tokens.
  """
  if views == 1 or views < 0:
    raise ValueError(f'views must be 0 or at least 2, got {views}.')
  params = jax.device_put(params)
  key = jax.random.key(seed)
  totals: dict[str, float] = {}
  seen: list[dict[str, np.ndarray]] = []
  altered: list[np.ndarray] = []

  def states() -> Iterator[dict[str, Any]]:
    texts = 0
    for k, batch in enumerate(batches() if callable(batches) else batches):
      if not k:
        check(params, batch, cfg)
      asked = _asked(params, batch, cfg)
      hidden = asked.pop('hidden')
      for name, value in asked.items():
        totals[name] = totals.get(name, 0.0) + float(value)
      if count_bytes is not None:
        counted = totals.get('bytes', 0.0) + count_bytes(_task(batch, cfg))
        totals['bytes'] = counted
      mask = jnp.asarray(batch['mask'])
      keep = layers.prompt_rows(mask, batch['segment_ids'])
      is_prompt = np.asarray(jnp.sum(keep, axis=-1) >= layers.FEWEST)
      if _has_lens(cfg):
        found = _lens(params, hidden, _places(batch, keep), batch, cfg)
        seen.append({
            name: np.asarray(value)[:, is_prompt]
            for name, value in found.items()
        })
      if views and texts < _MOST_TEXTS:
        keys = jax.random.split(jax.random.fold_in(key, k), views)
        means = [_altered(params, one, batch, keep, cfg, rate) for one in keys]
        altered.append(np.stack(means, axis=2)[:, is_prompt])
        texts += int(is_prompt.sum())
      report(f'batch {k + 1}: {int(totals["tokens"])} tokens predicted')
      yield {
          'hidden': hidden, 'mask': mask, 'segment_ids': batch['segment_ids']
      }

  found = layers.layer_statistics(states(), seed=seed)
  prompts, data = dict(found.prompts), dict(found.data)
  for name in seen[0] if seen else ():
    prompts[name] = np.concatenate([one[name] for one in seen], axis=1)
  if altered:
    data |= _invariance(np.concatenate(altered, axis=1), key)
  return Survey(prompts, data, _of_model(totals, prompts['curvature'].shape[1]))


def _of_model(totals, prompts) -> dict[str, float]:
  count = max(totals['tokens'], 1)
  nats = totals['nll'] / count
  model = {
      'cross_entropy': nats,
      'perplexity': float(prediction.perplexity(nats)),
      'prediction_entropy': totals['entropy'] / count,
      'tokens': totals['tokens'],
      'prompts': prompts,
  }
  if totals.get('bytes'):
    model['bits_per_byte'] = float(
        fidelity.bits_per_byte(nats, totals['bytes'] / count)
    )
  return model


def _has_lens(cfg) -> bool:
  """Whether the head can read the states of every layer."""
  return isinstance(cfg, families.DecoderConfig)


def _task(batch, cfg):
  reproduces = families.family(cfg).reproduces
  return tasks.view(batch, 'regeneration' if reproduces else 'causal', 0)


def check(params: Any, batch: Mapping[str, Any], cfg: Any) -> None:
  """Raises ValueError for a model whose layers `survey` cannot measure."""
  missing = [name for name in _NEEDED if name not in batch]
  if missing:
    raise ValueError(
        f'batches must hold {", ".join(missing)}, as those of data.as_source'
        f' do, got {", ".join(batch)}.'
    )
  read = {name: batch[name] for name in _READ}
  shape = jax.eval_shape(
      functools.partial(profiles.streams, cfg=cfg), params, read
  ).shape
  if shape[1:3] != batch['mask'].shape:
    raise ValueError(
        f'layers of the family {families.family(cfg).name!r} cannot be'
        f' measured by prompt: their states have shape {shape}, none for each'
        f' token of rows of shape {batch["mask"].shape}.'
    )


def _asked(params, batch, cfg):
  return _forward(params, {name: batch[name] for name in _NEEDED}, cfg=cfg)


@functools.partial(jax.jit, static_argnames='cfg')
def _forward(params, batch, *, cfg):
  """The states of all layers, and sums over the predicted tokens."""
  outputs = profiles.collected(params, batch, cfg)
  assert outputs.hidden is not None
  task = _task(batch, cfg)
  total = lambda a_BxL: jnp.sum(jnp.where(task['loss_mask'], a_BxL, 0.0))
  return {
      'hidden': outputs.hidden.astype(jnp.float32),
      'tokens': jnp.sum(task['loss_mask']),
      **{
          name: total(value)
          for name, value in _scores(
              outputs.logits_BxLxV, task['targets']
          ).items()
      },
  }


def _scores(logits_xV, targets_x):
  logits_xV = logits_xV.astype(jnp.float32)
  own_x = jnp.take_along_axis(logits_xV, targets_x[..., None], axis=-1)[..., 0]
  return {
      'nll': jax.nn.logsumexp(logits_xV, axis=-1) - own_x,
      'entropy': prediction.prediction_entropy(logits_xV),
  }


def _places(batch, keep_BxL) -> tuple[np.ndarray, np.ndarray]:
  """Positions [B, K] of each prompt, evenly spread, and which of them count."""
  counts = np.asarray(keep_BxL) & np.asarray(batch['loss_mask'], bool)
  places = np.zeros((len(counts), _ASKED), np.int32)
  real = np.zeros(places.shape, bool)
  for row, count_L in enumerate(counts):
    there = np.flatnonzero(count_L)
    if len(there) > _ASKED:
      there = there[np.linspace(0, len(there) - 1, _ASKED).astype(int)]
    places[row, :len(there)] = there
    real[row, :len(there)] = True
  return places, real


def _lens(params, hidden, places, batch, cfg):
  place_BxK, real_BxK = places
  targets = np.take_along_axis(np.asarray(batch['targets']), place_BxK, axis=1)
  return _read_by_head(params, hidden, place_BxK, real_BxK, targets, cfg=cfg)


@functools.partial(jax.jit, static_argnames='cfg')
def _read_by_head(
    params, hidden_NxBxLxD, place_BxK, real_BxK, targets_BxK, *, cfg
):
  """What the head would say of each layer's states: the logit lens."""
  count_B = jnp.sum(real_BxK, axis=-1, dtype=jnp.float32)

  def mean(a_BxK):
    total_B = jnp.sum(jnp.where(real_BxK, a_BxK, 0.0), axis=-1)
    return jnp.where(count_B > 0, total_B / jnp.maximum(count_B, 1), jnp.nan)

  def of_layer(x_BxLxD):
    x_BxKxD = jnp.take_along_axis(x_BxLxD, place_BxK[..., None], axis=1)
    x_BxKxD = x_BxKxD.astype(cfg.compute_dtype)
    found = _scores(decoder.head(params, x_BxKxD, cfg), targets_BxK)
    return {
        'next_token/entropy': mean(found['entropy']),
        'next_token/cross_entropy': mean(found['nll']),
    }

  return jax.lax.map(of_layer, hidden_NxBxLxD)


def _altered(params, key, batch, keep, cfg, rate):
  """Mean states [N, B, D] of the prompts of a batch, altered."""
  tokens = invariance.replace_tokens(
      key, jnp.asarray(batch['tokens']), keep, rate=rate
  )
  hidden = profiles.streams(params, batch | {'tokens': tokens}, cfg)
  return np.asarray(layers.mean_states(hidden, keep))


def _invariance(means_NxPxQxD: np.ndarray, key: jax.Array) -> layers.Arrays:
  most = means_NxPxQxD[:, :_MOST_TEXTS]
  return {
      name: np.asarray(of_layers(most, key))
      for name, of_layers in _OF_VIEWS.items()
  }


def _each(function):
  return jax.jit(
      lambda z_NxPxQxD, key: jax.lax.map(lambda z: function(z, key), z_NxPxQxD)
  )


# A program each: one with several eigendecompositions can hang on CPUs.
_OF_VIEWS = {
    'infonce': _each(lambda z, _: invariance.view_infonce(z[:, 0], z[:, 1])),
    'lidar': _each(lambda z, _: invariance.lidar(z)),
    'dime': _each(lambda z, key: invariance.dime(z[:, 0], z[:, 1], key)),
}

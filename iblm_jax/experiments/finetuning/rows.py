"""Rows of results: what fine-tuning has changed, and where."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from iblm_jax.analysis import profiles
from iblm_jax.data.text import tokenizers
from iblm_jax.experiments._harness import variants
from iblm_jax.experiments.finetuning import texts as texts_lib
from iblm_jax.information import fidelity
from iblm_jax.models import decoder, families, pretrained
from iblm_jax.objectives import iblm
from iblm_jax.training import config, metrics, restoring
from iblm_jax.training import summary as summary_lib

BEFORE = 'before'
# Batches of each text whose layers are profiled; steps of the last losses.
_PROFILED, _LAST = 2, 10
_READ = (
    'tokens', 'mask', 'segment_ids', 'positions', 'targets', 'loss_mask'
)


class Evaluation(NamedTuple):
  """What a row is made of.

  Attributes:
    method: `BEFORE` for the model as it was published.
    seed: Of the run.
    folder: Of the run; of any run for `BEFORE`, which tells the model.
    texts: What it is measured on.
  """

  method: str
  seed: int
  folder: str
  texts: texts_lib.TextsConfig


def make(
    evaluation: Evaluation, folder: epath.Path, report: Any
) -> dict[str, Any]:
  """Measures a model on all texts.

  Returns:
    'TEXT/bits_per_byte', 'TEXT/cross_entropy' (nats per token) and
    'TEXT/entropy/order_2', a mean over layers; the profile of the layers on the
    held-out pages, as `profiles.profile_row` names it; of a run also
    'train/cross_entropy', 'phases/...' and 'train_seconds'.
  """
  del folder
  run = config.read_run(evaluation.folder)
  row: dict[str, Any] = {}
  if evaluation.method == BEFORE:
    assert run.start is not None and run.start.pretrained is not None
    params = pretrained.load(run.start.pretrained).params
  else:
    params = restoring.restore_params(run, evaluation.folder).params
    row = _of_training(epath.Path(evaluation.folder))
  model = families.the_decoder(run.model, 'fine-tuning')
  middle = slice(
      run.objective.skip_first, model.num_layers - run.objective.skip_last
  )
  size = model.entropy.patch_size
  for name, text in _texts(evaluation.texts, run.data.text.tokenizer).items():
    nats = _cross_entropy(params, model, text)
    bits = fidelity.bits_per_byte(nats, text.bytes_per_token)
    row |= {f'{name}/bits_per_byte': float(bits), f'{name}/cross_entropy': nats}
    found = profiles.layer_profiles(
        params,
        model,
        profiles.eval_batches(text.source, _PROFILED),
        patch_sizes=(size,),
    )[size]
    row[f'{name}/entropy/order_2'] = float(
        found['entropy/order_2'][middle].mean()
    )
    if name == texts_lib.HELDOUT:
      row |= {key: float(a_N[middle].mean()) for key, a_N in found.items()}
      row |= {
          f'{key}/layer_{layer:02d}': float(value)
          for key in ('entropy/order_2', 'entropy_normalized/order_2')
          for layer, value in enumerate(found[key])
      }
    report(f'{name}: {float(bits):.4f} bits a byte')
  return row


def say(row: Mapping[str, Any]) -> str:
  """A row in a few words."""
  return ', '.join(
      f'{name.partition("/")[0]} {value:.3f}'
      for name, value in row.items()
      if name.endswith('/bits_per_byte')
  )


def key(evaluation: Evaluation) -> tuple[str, int]:
  """Method and seed of a row."""
  return evaluation.method, evaluation.seed


def plan(
    methods: Sequence[str],
    seeds: Sequence[int],
    folder: epath.Path,
    texts: texts_lib.TextsConfig,
) -> list[Evaluation]:
  """All rows: the model as it was, then every run."""
  path = lambda method, seed: str(folder / variants.run_name(method, seed))
  return [Evaluation(BEFORE, 0, path(methods[0], seeds[0]), texts)] + [
      Evaluation(method, seed, path(method, seed), texts)
      for seed in seeds
      for method in methods
  ]


def add_changes(
    rows: Sequence[dict[str, Any]], names: Sequence[str]
) -> None:
  """Adds to the row of every run what has changed since before it.

  'TEXT/change' is in bits per byte: below zero something was learned, above it
  was forgotten. 'others/change' is the mean over texts not trained on.
  """
  before = next(row for row in rows if row['method'] == BEFORE)
  others = [name for name in names if name != texts_lib.HELDOUT]
  for row in rows:
    if row is before:
      continue
    for name in names:
      bits = f'{name}/bits_per_byte'
      row[f'{name}/change'] = row[bits] - before[bits]
    changes = [row[f'{name}/change'] for name in others]
    row['others/change'] = sum(changes) / len(changes)


@functools.cache
def _texts(cfg, tokenizer):
  """Once for each process, which makes several rows."""
  return texts_lib.load(cfg, tokenizers.load_tokenizer(tokenizer))


def _cross_entropy(params, model, text) -> float:
  total = tokens = 0.0
  for batch in profiles.eval_batches(text.source):
    found = _sums(params, {name: batch[name] for name in _READ}, cfg=model)
    total += float(found.nll)
    tokens += float(found.tokens)
  return total / tokens


@functools.partial(jax.jit, static_argnames='cfg')
def _sums(params, batch, *, cfg: decoder.DecoderConfig):
  apply = functools.partial(families.apply, cfg=cfg)
  return iblm.measure(params, batch, apply=apply, collect=None)[0]


def _of_training(folder: epath.Path) -> dict[str, Any]:
  summary = summary_lib.read(folder)
  assert summary is not None  # all runs are trained
  losses = [
      line['train/cross_entropy']
      for line in metrics.read_metrics(folder / 'metrics.jsonl')
      if 'train/cross_entropy' in line
  ][-_LAST:]
  phases = summary.get('phases', {})
  return {
      'train/cross_entropy': sum(losses) / len(losses),
      **{f'phases/{name}': value for name, value in phases.items()},
      'train_seconds': summary['wall_seconds'],
  }

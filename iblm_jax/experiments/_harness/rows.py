"""From the folder of a finished run to one row of results."""

from typing import Any

from etils import epath

from iblm_jax import files
from iblm_jax.analysis import profiles
from iblm_jax.training import metrics
from iblm_jax.training import summary as summary_lib

# Steps whose mean is the training loss that is reported.
_LAST = 100


def make_row(
    method: str,
    seed: int,
    run: epath.Path,
    *,
    select: str,
    max_batches: int | None = None,
) -> dict[str, Any]:
  """Everything that experiments report about a run.

  Args:
    run: Folder of the run, finished. The row is kept in it, so that it is
      computed once.
    select: Evaluation set whose cross-entropy decides where training should
      have been stopped.
    max_batches: Of that set, on which the layers are profiled; None for all.

  Returns:
    'method', 'seed', and numbers: 'SET/cross_entropy' (nats), 'SET/accuracy',
    'SET/exact_match' of each evaluation set at the end; the same under
    'stopped/' at the evaluation with the best cross-entropy on `select`, and
    its 'stopped/step'; 'train/cross_entropy', mean of what was logged of the
    last 100 steps; the profile of the layers on `select`, see
    `profiles.profile_row`; 'phases/...' of gated runs; 'wall_seconds'.
  """
  held = run / 'row.json'
  if held.exists():
    return {'method': method, 'seed': seed} | files.read_object(held)
  cfg, params = profiles.load_params(run)
  summary = summary_lib.read(run)
  assert summary is not None  # all runs are trained
  logged = metrics.read_metrics(run / 'metrics.jsonl')
  evaluations = [
      line for line in logged if f'eval/{select}/cross_entropy' in line
  ]
  best = min(evaluations, key=lambda e: e[f'eval/{select}/cross_entropy'])
  tail = [
      line['train/cross_entropy']
      for line in logged
      if line['step'] > cfg.train.num_steps - _LAST
      and 'train/cross_entropy' in line
  ]
  row = {}
  for name, values in summary['eval'].items():
    for metric in ('cross_entropy', 'accuracy', 'exact_match'):
      row[f'{name}/{metric}'] = values[metric]
      row[f'stopped/{name}/{metric}'] = best[f'eval/{name}/{metric}']
  row['stopped/step'] = best['step']
  row['train/cross_entropy'] = sum(tail) / len(tail)
  row |= {
      f'phases/{name}': value
      for name, value in summary.get('phases', {}).items()
  }
  row |= profiles.profile_row(params, cfg, select, max_batches)
  row['wall_seconds'] = summary['wall_seconds']
  files.write_json(held, row, indent=None)
  return {'method': method, 'seed': seed} | row

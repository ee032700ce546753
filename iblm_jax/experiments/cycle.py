"""Does training cycle between memorising and compressing by itself?

  python -m iblm_jax.experiments.cycle --workdir=DIR --text=PATHS [--seeds=5]

The cosine between the gradients of cross-entropy and entropy at every step of
cross-entropy training, over all parameters and by layer, on multiplication and
on text; where it changes sign, at what scale, and whether that is more than the
noise of batches: each batch is measured in two independent halves, and the
series is compared with series that have its values or its spectrum by chance.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath
from scipy import signal

from iblm_jax import cli, data, files
from iblm_jax.analysis import agreement, series
from iblm_jax.experiments import multiplication
from iblm_jax.experiments._harness import program, results, variants
from iblm_jax.information import alignment
from iblm_jax.reports import cycle_figures, experiment_figures
from iblm_jax.training import metrics

_CLAIM = (
    'In cross-entropy training the gradients of cross-entropy and entropy'
    ' oscillate between agreeing and opposing: a memorisation-compression cycle'
    ' that emerges by itself (arXiv 2505.08727).'
)
_NUM_SURROGATES = 999
# Moving averages, in steps, that a cycle slower than single steps survives.
_SMOOTHING = (5, 25, 100)
# Not of the matrices in a layer, whose names go on.
_OF_LAYER = re.compile(r'alignment/cosine/(layer_\d+)')
_SELECT = {'multiplication': 'in_distribution', 'text': 'validation'}

_MEASURE = {
    'objective.method': 'ce',
    'objective.layer_schedule': 'all_middle',
    'alignment.every': 1,
    'alignment.halves': True,
    'alignment.norm_control': True,
    'train.log_every': 50,
}
_TEXT = {
    'model.vocab_size': 259,
    'model.document_mask': True,
    'data.kind': 'text',
    'data.batch_size': 16,
    'train.num_steps': 600,
}
_TEXT_OPTIONS = {
    'documents': 'file',
    'text_field': 'text',
    'holdout': 0.05,
    'tokenizer': 'bytes',
    'seq_len': 128,
    'eval_rows': 128,
}
_SMOKE = {
    'model.num_layers': 3,
    'model.width': 16,
    'model.scan_layers': True,
    'data.batch_size': 4,
    'data.multiplication.eval_rows': 16,
    'optimizer.schedule.warmup_steps': 2,
    'train.num_steps': 40,
    'train.log_every': 20,
    'train.eval_every': 0,
    'train.checkpoint_every': 20,
}


def sources(text: str | None) -> dict[str, variants.Overrides]:
  """What is trained on, as changes of the multiplication experiment's base.

  `text` names paths, see `data.text`; None trains on multiplication alone.
  """
  found: dict[str, variants.Overrides] = {'multiplication': _MEASURE}
  if text is not None:
    found['text'] = {
        **_MEASURE, **_TEXT, 'data.text': {**_TEXT_OPTIONS, 'paths': text}
    }
  return found


def run_experiment(options: Any) -> list[program.Results]:
  """Trains and takes the series apart."""
  compared, seeds = sources(options.text), range(options.seeds)
  if options.smoke:
    compared = {
        name: {**overrides, **_SMOKE} for name, overrides in compared.items()
    }
    seeds = range(1)
  with cli.refusing():  # a text is read before anything is trained
    for cfg in variants.make_runs(multiplication.BASE, compared, [0]).values():
      data.make_sources(cfg.data)
  made = []
  for name, overrides in compared.items():
    rows = program.train_methods(
        options,
        multiplication.BASE,
        {name: overrides},
        seeds,
        'runs',
        select=_SELECT[name],
        max_batches=8,
    )
    made += [row | _cycle(row, options.workdir) for row in rows]
  layers = sorted(
      {n.split('/')[0] for row in made for n in row if n.startswith('layer_')}
  )
  # Without the folders of the machine.
  public = {
      name: {k: v for k, v in overrides.items() if k != 'data.text'}
      for name, overrides in compared.items()
  }
  steps = 40 if options.smoke else None
  return [
      program.Results(
          made,
          settings={'base': multiplication.BASE, 'sources': public},
          tables=_tables(list(compared), layers, steps),
          draw=lambda tree: _draw(tree, list(compared), options.workdir),
      )
  ]


def read_series(run: epath.Path) -> dict[str, np.ndarray]:
  """Every metric of a run's steps that measured the alignment, float64 [T]."""
  lines = [
      line
      for line in metrics.read_metrics(run / 'metrics.jsonl')
      if 'alignment/cosine' in line
  ]
  names = [n for n in lines[0] if n == 'step' or n.startswith('alignment/')]
  return {
      name: np.array([line[name] for line in lines], np.float64)
      for name in names
  }


def _cycle(row: Mapping[str, Any], workdir: epath.Path) -> dict[str, float]:
  """What the series of one run say about a cycle."""
  run = workdir / 'runs' / variants.run_name(row['method'], row['seed'])
  held = run / 'cycle.json'
  if held.exists():
    return files.read_object(held)
  found = statistics_of(read_series(run), jax.random.key(row['seed']))
  files.write_json(held, found, indent=None)
  return found


def statistics_of(
    measured: Mapping[str, np.ndarray], key: jax.Array
) -> dict[str, float]:
  """Cycle statistics of a run's series, and what noise would give.

  Returns:
    By name: cycle statistics of the cosine, also after moving averages
    (`smooth_25/...`) and by layer (`layer_00/...`); `period`, `period_share`
    and `period_p` (white noise), `period_p_drift` (noise that drifts) of the
    largest peak of the periodogram; `p_permutation` and `p_phase`, of as few
    (permutation) or as extreme (phase) a number of sign changes; `agreement` of
    the signs in both halves and `agreement_by_chance`, `reliability` with its
    interval, `corrected`; `same_half` and `other_half`, mean cosine of
    gradients from the same and from different halves; `norm_control/...`.
  """
  cosine_T = measured['alignment/cosine']
  found = _statistics(cosine_T)
  found['mean_cosine'] = float(cosine_T.mean())
  for window in _SMOOTHING:
    if window < cosine_T.size:
      smooth_T = np.convolve(cosine_T, np.full(window, 1 / window), 'valid')
      for name, value in _statistics(smooth_T).items():
        found[f'smooth_{window}/{name}'] = value
  for layer, layer_T in sorted(_by_layer(measured).items()):
    for statistic, value in _statistics(layer_T).items():
      found[f'{layer}/{statistic}'] = value
  half = lambda name: measured[f'alignment/halves/cosine_{name}']
  positive = [float(np.mean(half(name) > 0)) for name in ('aa', 'bb')]
  shared = agreement.reliability(half('aa'), half('bb'))
  period = series.dominant_period(key, cosine_T, num=_NUM_SURROGATES)
  found |= {
      'agreement': float(agreement.sign_agreement(half('aa'), half('bb'))),
      'agreement_by_chance': positive[0] * positive[1]
      + (1 - positive[0]) * (1 - positive[1]),
      'reliability': float(shared.correlation),
      'reliability_low': float(shared.low),
      'reliability_high': float(shared.high),
      'corrected': float(shared.corrected),
      'same_half': float((half('aa') + half('bb')).mean() / 2),
      'other_half': float((half('ab') + half('ba')).mean() / 2),
      'agreement_other_half': float(
          agreement.sign_agreement(half('aa'), half('ab'))
      ),
      'gradient_noise/main': float(half('main').mean()),
      'gradient_noise/aux': float(half('aux').mean()),
      'period': float(period.period),
      'period_share': float(period.share),
      'period_p': float(period.p_value),
      'period_p_drift': _period_against_drift(cosine_T),
  }
  for kind, alternative in (('permutation', 'less'), ('phase', 'two-sided')):
    test = series.surrogate_test(
        key, cosine_T, _sign_changes, kind=kind, num=_NUM_SURROGATES,
        alternative=alternative,
    )
    found[f'p_{kind}'] = float(test.p_value)
    found[f'null_{kind}/sign_changes'] = float(test.null.mean())
  control_T = measured['alignment/norm_control/cosine_main']
  for name, value in _statistics(control_T).items():
    found[f'norm_control/{name}'] = value
  found['norm_control/correlation'] = float(
      np.corrcoef(cosine_T, control_T)[0, 1]
  )
  return found


def _by_layer(measured: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cosines of whole layers, by 'layer_00', ..."""
  matches = (_OF_LAYER.fullmatch(name) for name in measured)
  return {match[1]: measured[match[0]] for match in matches if match}


def _statistics(cosines_T: np.ndarray) -> dict[str, float]:
  found = alignment.cycle_statistics(cosines_T)
  return {name: float(value) for name, value in found.items()}


def _sign_changes(series_T: jax.Array) -> jax.Array:
  changes = alignment.cycle_statistics(series_T)['sign_changes']
  return changes.astype(jnp.float32)


def _period_against_drift(series_T: np.ndarray) -> float:
  """p-value of the largest peak's share under a fitted AR(1) process.

  A drift without any cycle has a large peak at a long period, too. The series
  and the draws lose their straight line alike.
  """
  def share_of_peak(x_SxT):
    power_SxF = np.abs(np.fft.rfft(signal.detrend(x_SxT)))[..., 1:] ** 2
    return power_SxF.max(-1) / power_SxF.sum(-1)

  rest_T = signal.detrend(series_T)
  decay = float(rest_T[1:] @ rest_T[:-1] / (rest_T @ rest_T))
  rng = np.random.default_rng(0)
  draws_SxT = rng.standard_normal((_NUM_SURROGATES, series_T.size))
  # In its stationary state from the start.
  draws_SxT[:, 0] /= np.sqrt(1 - decay**2)
  for t in range(1, series_T.size):
    draws_SxT[:, t] += decay * draws_SxT[:, t - 1]
  at_least = np.sum(share_of_peak(draws_SxT) >= share_of_peak(series_T))
  return float((1 + at_least) / (1 + _NUM_SURROGATES))


def _tables(names, layers, steps) -> dict[str, Any]:
  runs = lambda prefix='': [
      [f'{prefix}sign_changes', 'sign changes', 0],
      [f'{prefix}share_positive', 'share positive', 2],
      [f'{prefix}mean_run_positive', 'positive run, steps', 1],
      [f'{prefix}mean_run_negative', 'negative run, steps', 1],
  ]
  table = lambda columns: results.table(names, columns)
  return {
      'cycle': table([*runs(), ['mean_cosine', 'mean cosine', 3]]),
      'noise': table([
          ['agreement', 'same sign in both halves', 2],
          ['agreement_by_chance', 'by chance', 2],
          ['reliability', 'correlation of halves', 2],
          ['corrected', 'of whole batches', 2],
          ['same_half', 'cosine, same half', 3],
          ['other_half', 'cosine, other half', 3],
      ]),
      'surrogates': table([
          ['sign_changes', 'sign changes', 0],
          ['null_permutation/sign_changes', 'in any order', 0],
          ['p_permutation', 'p (fewer)', 3],
          ['null_phase/sign_changes', 'same spectrum', 0],
          ['p_phase', 'p', 2],
          ['period', 'period, steps', 0],
          ['period_share', 'share of variance', 2],
          ['period_p_drift', 'p against drift', 2],
      ]),
      'scale': table([
          ['sign_changes', 'every step', 0],
          *(
              [f'smooth_{window}/sign_changes', f'mean of {window}', 1]
              for window in _SMOOTHING
              if steps is None or window < steps
          ),
      ]),
      'layers': table([
          column
          for layer in layers
          for column in (
              [f'{layer}/sign_changes', f'{layer}: changes', 0],
              [f'{layer}/share_positive', f'{layer}: positive', 2],
          )
      ]),
      'norm_control': table([
          *runs('norm_control/'),
          ['norm_control/correlation', 'correlation with the entropy', 2],
      ]),
      'entropy': table(multiplication.ENTROPY_COLUMNS),
  }


def _draw(tree, names, workdir) -> dict[str, Any]:
  halves = {
      'agreement': 'same sign in both halves of a batch',
      'agreement_by_chance': '... expected by chance',
      'reliability': 'correlation of the halves',
  }
  figures = {
      'halves': experiment_figures.interval_figure(
          tree, list(halves), names, halves
      )
  }
  for name in names:
    run = workdir / 'runs' / variants.run_name(name, 0)
    figures |= _draw_series(name, read_series(run))
  return figures


def _draw_series(name, measured) -> dict[str, Any]:
  """Figures of the first seed's series."""
  cosine_T = measured['alignment/cosine']
  signs_T = np.sign(cosine_T)
  of_halves = [measured[f'alignment/halves/cosine_{h}'] for h in ('ab', 'ba')]
  draws = {
      label: series.surrogate_test(
          jax.random.key(0), cosine_T, _sign_changes, kind=kind,
          num=_NUM_SURROGATES,
      ).null.tolist()
      for label, kind in (
          ('same values in any order', 'permutation'),
          ('same spectrum, random phases', 'phase'),
      )
  }
  return {
      f'cycle_{name}': cycle_figures.cycle_figure(
          {
              'step': measured['step'],
              'cosine': cosine_T,
              'control': sum(of_halves) / 2,
              'layers': {
                  layer.replace('_', ' '): layer_T
                  for layer, layer_T in _by_layer(measured).items()
              },
              'norms': {
                  'cross-entropy': measured['alignment/norm_main'],
                  'entropy': measured['alignment/norm_aux'],
              },
          },
          measured['step'][1:][signs_T[1:] != signs_T[:-1]],
      ),
      f'surrogates_{name}': cycle_figures.surrogate_figure(
          float(_statistics(cosine_T)['sign_changes']), draws
      ),
  }


EXPERIMENT = program.Experiment(
    'cycle',
    _CLAIM,
    run_experiment,
    seeds=5,
    define_flags=lambda: flags.DEFINE_string(
        'text', None,
        'Text files to train on too, as data.text.paths takes them.',
    ),
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()

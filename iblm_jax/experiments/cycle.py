"""Does training cycle between memorising and compressing by itself?

  python -m iblm_jax.experiments.cycle --workdir=DIR --text=PATHS [--seeds=5]

The cosine between the gradients of cross-entropy and entropy at every step of
cross-entropy training, over all parameters and by layer, on multiplication and
on text; where it changes sign, at what scale, and whether that is more than the
noise of batches: each batch is measured in two independent halves, and the
series is compared with series that have its values or its spectrum by chance.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath

from iblm_jax import cli
from iblm_jax.analysis import agreement, series
from iblm_jax.experiments import multiplication
from iblm_jax.experiments._harness import program, results, variants, workdirs
from iblm_jax.information import alignment
from iblm_jax.reports import cycle_figures, experiment_figures
from iblm_jax.training import metrics

FLAGS = flags.FLAGS

_CLAIM = (
    'In cross-entropy training the gradients of cross-entropy and entropy'
    ' oscillate between agreeing and opposing: a memorisation-compression cycle'
    ' that emerges by itself (arXiv 2505.08727).'
)
_NUM_SURROGATES = 999
# Moving averages, in steps, that a cycle slower than single steps survives.
_SMOOTHING = (5, 25, 100)
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

  Args:
    text: paths, see `data.text`; None for multiplication alone.

  Returns:
    Overrides by the name of the source.
  """
  found: dict[str, variants.Overrides] = {'multiplication': _MEASURE}
  if text is not None:
    found['text'] = {
        **_MEASURE, **_TEXT, 'data.text': {**_TEXT_OPTIONS, 'paths': text}
    }
  return found


def main() -> None:
  """Trains, takes the series apart, writes results and figures."""
  program.check_figures()
  workdir = epath.Path(FLAGS.workdir)
  compared, seeds = sources(FLAGS.text), range(FLAGS.seeds)
  if FLAGS.smoke:
    compared = {
        name: {**overrides, **_SMOKE} for name, overrides in compared.items()
    }
    seeds = range(1)
  with program.stopwatch(workdir) as seconds:
    made = []
    for name, overrides in compared.items():
      rows = program.train_methods(
          multiplication.BASE,
          {name: overrides},
          seeds,
          workdir / 'runs',
          select=_SELECT[name],
          max_batches=8,
      )
      made += [row | _cycle(row, workdir) for row in rows]
    layers = sorted(
        {n.split('/')[0] for row in made for n in row if n.startswith('layer_')}
    )
    tree = results.write(
        workdir / 'results.json',
        experiment='cycle',
        claim=_CLAIM,
        command=program.command('cycle'),
        settings={'base': multiplication.BASE, 'sources': _public(compared)},
        rows=made,
        baseline=None,
        tables=_tables(list(compared), layers),
        wall_seconds=seconds(),
    )
    for name in compared:
      _draw(name, workdir)
    program.save_figure(
        experiment_figures.interval_figure(
            tree,
            ['agreement', 'agreement_by_chance', 'reliability'],
            list(compared),
            {
                'agreement': 'same sign in both halves of a batch',
                'agreement_by_chance': '... expected by chance',
                'reliability': 'correlation of the halves',
            },
        ),
        workdir / 'halves.png',
    )
    program.done(workdir, seconds())


def _public(compared: Mapping[str, Any]) -> dict[str, Any]:
  """Settings without the folders of the machine."""
  return {
      name: {k: v for k, v in overrides.items() if k != 'data.text'}
      for name, overrides in compared.items()
  }


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
    return json.loads(held.read_text())
  found = statistics_of(read_series(run), jax.random.key(row['seed']))
  workdirs.write_json(held, found)
  return found


def statistics_of(
    measured: Mapping[str, np.ndarray], key: jax.Array
) -> dict[str, float]:
  """Cycle statistics of a run's series, and what noise would give.

  Args:
    measured: from `read_series`, with halves and the norm's control.
    key: of the surrogates.

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
  for name in sorted(measured):
    if name.startswith('alignment/cosine/layer_') and name.count('/') == 2:
      layer = name.rsplit('/', 1)[1]
      for statistic, value in _statistics(measured[name]).items():
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
        key,
        cosine_T,
        _sign_changes,
        kind=kind,
        num=_NUM_SURROGATES,
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
  line_Tx2 = np.stack([np.ones(series_T.size), np.arange(series_T.size)], 1)
  basis_Tx2 = np.linalg.qr(line_Tx2)[0]
  detrended = lambda x_SxT: x_SxT - x_SxT @ basis_Tx2 @ basis_Tx2.T

  def share_of_peak(x_SxT):
    power_SxF = np.abs(np.fft.rfft(detrended(x_SxT)))[..., 1:] ** 2
    return power_SxF.max(-1) / power_SxF.sum(-1)

  rest_T = detrended(series_T)
  decay = float(rest_T[1:] @ rest_T[:-1] / (rest_T @ rest_T))
  rng = np.random.default_rng(0)
  draws_SxT = rng.standard_normal((_NUM_SURROGATES, series_T.size))
  # In its stationary state from the start.
  draws_SxT[:, 0] /= np.sqrt(1 - decay**2)
  for t in range(1, series_T.size):
    draws_SxT[:, t] += decay * draws_SxT[:, t - 1]
  at_least = np.sum(share_of_peak(draws_SxT) >= share_of_peak(series_T))
  return float((1 + at_least) / (1 + _NUM_SURROGATES))


def _tables(names, layers) -> dict[str, Any]:
  runs = lambda prefix='': [
      [f'{prefix}sign_changes', 'sign changes', 0],
      [f'{prefix}share_positive', 'share positive', 2],
      [f'{prefix}mean_run_positive', 'positive run, steps', 1],
      [f'{prefix}mean_run_negative', 'negative run, steps', 1],
  ]
  table = lambda columns: {
      'methods': names, 'columns': columns, 'paired': False
  }
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
              if not FLAGS.smoke or window < 40
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


def _draw(name: str, workdir: epath.Path) -> None:
  """Figures of the first seed's series."""
  measured = read_series(workdir / 'runs' / variants.run_name(name, 0))
  cosine_T = measured['alignment/cosine']
  flips = measured['step'][1:][np.sign(cosine_T[1:]) != np.sign(cosine_T[:-1])]
  halves = (
      measured['alignment/halves/cosine_ab']
      + measured['alignment/halves/cosine_ba']
  ) / 2
  by_layer = {
      n.rsplit('/', 1)[1].replace('_', ' '): values
      for n, values in measured.items()
      if n.startswith('alignment/cosine/layer_') and n.count('/') == 2
  }
  figure = cycle_figures.cycle_figure(
      {
          'step': measured['step'],
          'cosine': cosine_T,
          'control': halves,
          'layers': by_layer,
          'norms': {
              'cross-entropy': measured['alignment/norm_main'],
              'entropy': measured['alignment/norm_aux'],
          },
      },
      flips,
  )
  program.save_figure(figure, workdir / f'cycle_{name}.png')
  draw = lambda kind: series.surrogate_test(
      jax.random.key(0), cosine_T, _sign_changes, kind=kind,
      num=_NUM_SURROGATES,
  )
  tests = {
      'same values in any order': draw('permutation'),
      'same spectrum, random phases': draw('phase'),
  }
  figure = cycle_figures.surrogate_figure(
      float(_statistics(cosine_T)['sign_changes']),
      {label: test.null.tolist() for label, test in tests.items()},
  )
  program.save_figure(figure, workdir / f'surrogates_{name}.png')


def run() -> None:
  """Entry point."""
  program.define_flags(seeds=5)
  flags.DEFINE_string(
      'text', None, 'Text files to train on too, as data.text.paths takes them.'
  )
  cli.run(main)


if __name__ == '__main__':
  run()

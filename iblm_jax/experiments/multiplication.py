"""Does compression help arithmetic beyond the training range?

  python -m iblm_jax.experiments.multiplication --workdir=DIR [--seeds=5]

Cross-entropy alone, with the entropy at every step, and with GAPT, on the same
seeds and steps, against a baseline whose weight decay was tuned on other seeds
and which may stop early. `--sweep` varies what GAPT leaves open on the tuning
seeds, draws entropy against cross-entropy for three ways of trading them, and
tries the best setting on fresh seeds.
"""

import statistics as python_statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import flags

from iblm_jax import cli
from iblm_jax.experiments._harness import program, results, variants
from iblm_jax.reports import experiment_figures

_CLAIM = (
    'GAPT improves out-of-distribution multiplication by 35 % (arXiv'
    ' 2505.08727, abstract).'
)
_SELECT = 'in_distribution'
_TUNING_SEEDS = (100, 101)
_FRESH_SEEDS = (200, 201, 202, 203, 204)
# Ways of trading entropy for cross-entropy, which have more seeds.
_PARETO_SEEDS = (100, 101, 102, 103, 104)
_FAMILIES = {
    'constant': 'constant weight',
    'dual': 'dual ascent (target / CE)',
    'gate': 'gate (weight)',
    'ce': 'cross-entropy alone',
}
_DECAYS = (0.0, 0.1, 0.3, 1.0, 3.0)

# Smaller than the config, so that many seeds take minutes.
BASE = variants.base(
    'multiplication',
    'ce',
    {
        'model.width': 64,
        'model.num_heads': 2,
        'train.num_steps': 1000,
        'train.eval_every': 100,
        'train.checkpoint_every': 500,
        'train.keep_checkpoints': 2,
    },
)
SMOKE = {
    'model.num_layers': 3,
    'model.width': 16,
    'model.scan_layers': True,
    'data.batch_size': 8,
    'data.multiplication.eval_rows': 16,
    'gate.patience_main': 3,
    'gate.patience_aux': 2,
    'optimizer.schedule.warmup_steps': 2,
    'train.num_steps': 12,
    'train.log_every': 2,
    'train.eval_every': 4,
    'train.checkpoint_every': 6,
}
_MBE = {'objective.method': 'mbe'}
_GAPT = {'objective.method': 'gapt'}
# As in the paper's public code: lambda 1, the gate reads raw losses.
PAPER = {
    'objective.weight': 1.0,
    'gate.ema': 0.0,
    'gate.reset_aux_best': False,
}
_CENTRED = {'model.entropy.center': True}
_UNIT_ROWS = {'model.entropy.normalize': True}

# Columns that every experiment of these reports.
ENTROPY_COLUMNS = [
    ['train/cross_entropy', 'CE train', 3],
    ['entropy/order_1', 'S_1', 3],
    ['entropy/order_2', 'S_2', 3],
    ['entropy/order_inf', 'S_inf', 3],
    ['entropy_centered/order_1', 'centred S_1', 3],
    ['entropy_centered/order_2', 'centred S_2', 3],
    ['entropy_centered/order_inf', 'centred S_inf', 3],
    ['entropy_normalized/order_2', 'unit rows S_2', 3],
    ['mean_share', 'mean share', 3],
    ['longest_row', 'longest token', 3],
    ['rms', 'rms', 2],
]
# Figures by layer.
COMPRESSION_LABELS = {
    'entropy/order_2': 'S_2, nats',
    'entropy_centered/order_2': 'S_2 of centred rows, nats',
    'entropy_normalized/order_2': 'S_2 of unit rows, nats',
}
PHASE_COLUMNS = [
    ['phases/share_compression', 'share of steps', 2],
    ['phases/num_switches', 'switches', 1],
    ['phases/mean_memorisation_length', 'memorise, steps', 1],
    ['phases/mean_compression_length', 'compress, steps', 1],
]


def methods(weight_decay: float) -> dict[str, variants.Overrides]:
  """What is compared, given the tuned weight decay."""
  tuned = {'optimizer.weight_decay': weight_decay}
  return {
      'ce': {},
      'ce_tuned': tuned,
      'mbe': _MBE,
      'gapt': _GAPT,
      'gapt_paper': {**_GAPT, **PAPER},
      'gapt_tuned': {**_GAPT, **tuned},
      'gapt_centered': {**_GAPT, **_CENTRED},
      'gapt_unit_rows': {**_GAPT, **tuned, **_UNIT_ROWS},
  }


class Setting(NamedTuple):
  """One run of the sweep: what it changes, and its place in a family."""

  overrides: variants.Overrides
  family: str = ''
  knob: float | None = None


def sweep(weight_decay: float, cross_entropy: float) -> dict[str, Setting]:
  """What --sweep tries: one thing at a time, and three Pareto families.

  Args:
    cross_entropy: That it reaches on training batches, nats: the dual method's
      targets are multiples of it.
  """
  tuned: variants.Overrides = {'optimizer.weight_decay': weight_decay}
  gapt = {**_GAPT, **tuned}
  found = {'ce:0': Setting(tuned, 'ce')}
  for weight in (0.01, 0.03, 0.1, 1.0):
    change = {'objective.weight': weight}
    for family, start in (('constant', {**_MBE, **tuned}), ('gate', gapt)):
      found[f'{family}:{weight:g}'] = Setting(
          {**start, **change}, family, weight
      )
  for factor in (1.02, 1.1, 1.25):
    dual = {
        **tuned,
        'objective.method': 'dual',
        'dual.target': factor * cross_entropy,
        'dual.rate': 0.2,
        'dual.weight': 0.01,
        'dual.min_weight': 1e-3,
        'dual.max_weight': 10.0,
    }
    found[f'dual:{factor:g}'] = Setting(dual, 'dual', factor)
  one_at_a_time = {
      **{f'order:{a}': {'model.entropy.alpha': float(a)} for a in (1.0, 'inf')},
      **{
          f'patience:{main}': {
              'gate.patience_main': main, 'gate.patience_aux': aux
          }
          for main, aux in ((30, 20), (300, 200))
      },
      **{f'patch:{n}': {'model.entropy.patch_size': n} for n in (4, 16)},
      'layers:middle': {'objective.layer_schedule': 'all_middle'},
      'layers:all': {
          'objective.layer_schedule': 'all_middle',
          'objective.skip_first': 0,
          'objective.skip_last': 0,
      },
      'centered:0.1': _CENTRED,
      'centered:1': {**_CENTRED, 'objective.weight': 1.0},
      'unit_rows:0.1': _UNIT_ROWS,
      'directions:0.1': {**_CENTRED, **_UNIT_ROWS},
  }
  return found | {
      f'gate_{name}': Setting({**gapt, **change})
      for name, change in one_at_a_time.items()
  }


def run_experiment(options: Any) -> list[program.Results]:
  """Tunes the baseline, then trains all methods or the sweep."""
  tuning, seeds, decays = _TUNING_SEEDS, range(options.seeds), _DECAYS
  base = BASE
  if options.smoke:
    base = variants.change(BASE, SMOKE)
    tuning, seeds, decays = tuning[:1], range(1), (0.1,)
  tuned = _tune(options, base, tuning, decays)
  if options.sweep:
    return _sweep(options, base, tuned, tuning)
  compared = methods(tuned['weight_decay'])
  if options.smoke:
    compared = {name: compared[name] for name in ('ce_tuned', 'gapt')}
  rows = program.train_methods(
      options, base, compared, seeds, 'runs', select=_SELECT
  )
  return [
      program.Results(
          rows,
          settings={'base': base, 'methods': compared, 'tuning': tuned},
          tables=_tables(list(compared)),
          baseline='ce_tuned',
          draw=lambda tree: _draw(tree, list(compared)),
      )
  ]


def _tune(options, base, seeds, decays) -> dict[str, Any]:
  """The weight decay of the baseline with the best held-out cross-entropy."""
  candidates = {
      f'decay_{decay:g}': {'optimizer.weight_decay': decay} for decay in decays
  }
  made = program.train_methods(
      options, base, candidates, seeds, 'tuning', select=_SELECT
  )
  mean = lambda method, metric: python_statistics.mean(
      row[metric] for row in made if row['method'] == method
  )
  metric = f'stopped/{_SELECT}/cross_entropy'
  scores = {name: mean(name, metric) for name in candidates}
  best = min(scores, key=lambda name: scores[name])
  decay = candidates[best]['optimizer.weight_decay']
  cli.report(
      f'weight decay of the baseline: {decay:g}, best of {list(decays)} on'
      f' seeds {list(seeds)} by early-stopped in-distribution cross-entropy'
  )
  return {
      'weight_decay': decay,
      'scores': scores,
      'seeds': list(seeds),
      'train_cross_entropy': mean(best, 'train/cross_entropy'),
  }


def _tables(names) -> dict[str, Any]:
  outcome = [
      ['in_distribution/cross_entropy', 'CE in', 3],
      ['out_of_distribution/cross_entropy', 'CE out', 3],
      ['stopped/in_distribution/cross_entropy', 'CE in, stopped', 3],
      ['stopped/out_of_distribution/cross_entropy', 'CE out, stopped', 3],
      ['in_distribution/exact_match', 'exact in', 3],
      ['out_of_distribution/accuracy', 'digits out', 3],
  ]
  gated = [name for name in names if name.startswith('gapt')]
  others = [name for name in names if name != 'ce_tuned']
  return {
      'outcome': results.table(names, outcome),
      'paired': results.table(others, outcome, paired=True),
      'relative': results.table(others, outcome, paired=True, relative=True),
      'entropy': results.table(names, ENTROPY_COLUMNS),
      'phases': results.table(gated, PHASE_COLUMNS),
  }


def draw_layers(tree, names, labels=None) -> dict[str, Any]:
  """A figure by layer of every measure of compression."""
  labels = COMPRESSION_LABELS | (labels or {})
  return {
      prefix.split('/')[0]: experiment_figures.layers_figure(
          tree, prefix, names, labels
      )
      for prefix in COMPRESSION_LABELS
  }


def _draw(tree, names) -> dict[str, Any]:
  labels = {
      'stopped/in_distribution/cross_entropy': (
          'in distribution, stopped early: nats'
      ),
      'out_of_distribution/cross_entropy': 'out of distribution: nats',
      'in_distribution/exact_match': 'in distribution: exact match',
  }
  return {
      'multiplication': experiment_figures.interval_figure(
          tree, list(labels), names, labels
      ),
      **draw_layers(tree, names),
  }


def _sweep(options, base, tuned, seeds) -> list[program.Results]:
  """Everything that GAPT leaves open, and the best of it on fresh seeds."""
  swept = sweep(tuned['weight_decay'], tuned['train_cross_entropy'])
  fresh, more = _FRESH_SEEDS, _PARETO_SEEDS
  if options.smoke:
    swept = {name: swept[name] for name in ('ce:0', 'dual:1.1')}
    fresh, more = fresh[:1], seeds
  changes = {name: setting.overrides for name, setting in swept.items()}
  train = lambda methods, seeds: program.train_methods(
      options, base, methods, seeds, 'sweep', select=_SELECT
  )
  made = train(changes, seeds)
  summary = results.summarise(made)
  score = lambda name: summary[name][f'stopped/{_SELECT}/cross_entropy']['mean']
  best = min((name for name in swept if name != 'ce:0'), key=score)
  cli.report(f'best on the tuning seeds: {best}; now on fresh seeds')
  confirmed = {'ce_tuned': changes['ce:0'], 'best': changes[best]}
  made_fresh = train(confirmed, fresh)
  made += train(
      {name: changes[name] for name in swept if swept[name].family},
      [seed for seed in more if seed not in seeds],
  )
  common = {'base': base, 'tuning': tuned, 'best': best}
  tables, confirming = _tables(list(swept)), _tables(list(confirmed))
  return [
      program.Results(
          made,
          settings={**common, 'methods': changes},
          tables={
              'sweep': tables['outcome'], 'sweep_entropy': tables['entropy']
          },
          baseline='ce:0',
          draw=lambda tree: _draw_pareto(results.summarise(made), swept),
          part='sweep',
      ),
      program.Results(
          made_fresh,
          settings={**common, 'methods': confirmed},
          tables={
              kind: confirming[kind]
              for kind in ('outcome', 'paired', 'entropy')
          },
          baseline='ce_tuned',
          part='fresh',
      ),
  ]


def _draw_pareto(
    summary: Mapping[str, Any], swept: Mapping[str, Setting]
) -> dict[str, Any]:
  y = f'{_SELECT}/cross_entropy'
  figures = {}
  for name, x in (
      ('pareto', 'entropy/order_2'),
      ('pareto_centered', 'entropy_centered/order_2'),
  ):
    points = {
        label: [
            {'knob': swept[key].knob, x: entries[x], y: entries[y]}
            for key, entries in summary.items()
            if swept[key].family == family
        ]
        for family, label in _FAMILIES.items()
    }
    figures[name] = experiment_figures.pareto_figure(
        {label: found for label, found in points.items() if found},
        x,
        y,
        {x: 'entropy of the middle layers, nats', y: 'cross-entropy, nats'},
    )
  return figures


EXPERIMENT = program.Experiment(
    'multiplication',
    _CLAIM,
    run_experiment,
    seeds=5,
    define_flags=lambda: flags.DEFINE_bool(
        'sweep', False,
        'Try what GAPT leaves open instead of comparing methods.',
    ),
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()

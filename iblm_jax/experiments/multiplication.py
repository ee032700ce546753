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
from typing import Any

from absl import flags
from etils import epath

from iblm_jax import cli
from iblm_jax.experiments._harness import program, results, variants
from iblm_jax.reports import experiment_figures

FLAGS = flags.FLAGS

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

BASE = {
    'model': {
        'vocab_size': 15,
        'num_layers': 4,
        'width': 64,
        'num_heads': 2,
        'activation': 'relu2',
        'qk_norm': True,
        'positions': 'rotary',
        'document_mask': False,
        'scan_layers': False,
        'entropy': {'alpha': 2.0, 'patch_size': 8},
    },
    'data': {
        'kind': 'multiplication',
        'batch_size': 64,
        'multiplication': {
            'digits': (1, 2),
            'ood_digits': (3, 3),
            'holdout': 0.1,
            'eval_rows': 1024,
        },
    },
    'objective': {
        'method': 'ce',
        'weight': 0.1,
        'reduction': 'mean',
        'layer_schedule': 'rotate',
        'measure_entropy': True,
    },
    'gate': {
        'patience_main': 125,
        'patience_aux': 75,
        'ema': 0.98,
        'reset_aux_best': True,
    },
    'optimizer': {
        'name': 'adamw',
        'weight_decay': 0.1,
        'clip_norm': 1.0,
        'schedule': {'name': 'wsd', 'peak': 2e-3, 'warmup_steps': 100},
    },
    'train': {
        'num_steps': 1000,
        'log_every': 10,
        'eval_every': 100,
        'checkpoint_every': 500,
        'keep_checkpoints': 2,
    },
}
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

# Columns that every experiment reports.
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


def sweep(
    weight_decay: float, cross_entropy: float
) -> dict[str, variants.Overrides]:
  """What --sweep tries: one thing at a time, and three Pareto families.

  Args:
    weight_decay: of the tuned baseline, which all start from.
    cross_entropy: that it reaches on training batches, nats: the dual method's
      targets are multiples of it.

  Returns:
    Overrides by name; `family:knob` names a point of a family.
  """
  tuned: variants.Overrides = {'optimizer.weight_decay': weight_decay}
  gapt = {**_GAPT, **tuned}
  found: dict[str, variants.Overrides] = {'ce:0': tuned}
  for weight in (0.01, 0.03, 0.1, 1.0):
    found[f'constant:{weight:g}'] = {
        **_MBE, **tuned, 'objective.weight': weight
    }
    found[f'gate:{weight:g}'] = {**gapt, 'objective.weight': weight}
  for factor in (1.02, 1.1, 1.25):
    found[f'dual:{factor:g}'] = {
        **tuned,
        'objective.method': 'dual',
        'dual.target': factor * cross_entropy,
        'dual.rate': 0.2,
        'dual.weight': 0.01,
        'dual.min_weight': 1e-3,
        'dual.max_weight': 10.0,
    }
  for alpha in (1.0, 'inf'):
    found[f'gate_order:{alpha}'] = {
        **gapt, 'model.entropy.alpha': float(alpha)
    }
  for main, aux in ((30, 20), (300, 200)):
    found[f'gate_patience:{main}'] = {
        **gapt, 'gate.patience_main': main, 'gate.patience_aux': aux
    }
  for size in (4, 16):
    found[f'gate_patch:{size}'] = {**gapt, 'model.entropy.patch_size': size}
  found |= {
      'gate_layers:middle': {**gapt, 'objective.layer_schedule': 'all_middle'},
      'gate_layers:all': {
          **gapt,
          'objective.layer_schedule': 'all_middle',
          'objective.skip_first': 0,
          'objective.skip_last': 0,
      },
      'gate_centered:0.1': {**gapt, **_CENTRED},
      'gate_centered:1': {**gapt, **_CENTRED, 'objective.weight': 1.0},
      'gate_unit_rows:0.1': {**gapt, **_UNIT_ROWS},
      'gate_directions:0.1': {**gapt, **_CENTRED, **_UNIT_ROWS},
  }
  return found


def main() -> None:
  """Tunes the baseline, trains all methods, writes results and figures."""
  program.check_figures()
  workdir = epath.Path(FLAGS.workdir)
  tuning, seeds, decays = _TUNING_SEEDS, range(FLAGS.seeds), _DECAYS
  base = BASE
  if FLAGS.smoke:
    base = variants.change(BASE, SMOKE)
    tuning, seeds, decays = tuning[:1], range(1), (0.1,)
  with program.stopwatch(workdir) as seconds:
    tuned = _tune(base, tuning, decays, workdir)
    if FLAGS.sweep:
      _sweep(base, tuned, tuning, workdir, seconds)
      return
    compared = methods(tuned['weight_decay'])
    if FLAGS.smoke:
      compared = {name: compared[name] for name in ('ce_tuned', 'gapt')}
    made = program.train_methods(
        base, compared, seeds, workdir / 'runs', select=_SELECT
    )
    tree = results.write(
        workdir / 'results.json',
        experiment='multiplication',
        claim=_CLAIM,
        command=program.command('multiplication'),
        settings={'base': base, 'methods': compared, 'tuning': tuned},
        rows=made,
        baseline='ce_tuned',
        tables=_tables(list(compared)),
        wall_seconds=seconds(),
    )
    _draw(tree, list(compared), workdir)
    program.done(workdir, seconds())


def _tune(base, seeds, decays, workdir) -> dict[str, Any]:
  """The weight decay of the baseline with the best held-out cross-entropy."""
  candidates = {
      f'decay_{decay:g}': {'optimizer.weight_decay': decay} for decay in decays
  }
  made = program.train_methods(
      base, candidates, seeds, workdir / 'tuning', select=_SELECT
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
  table = lambda names, columns, paired=False: {
      'methods': names, 'columns': columns, 'paired': paired
  }
  others = [name for name in names if name != 'ce_tuned']
  return {
      'outcome': table(names, outcome),
      'paired': table(others, outcome, True),
      'relative': {**table(others, outcome, True), 'relative': True},
      'entropy': table(names, ENTROPY_COLUMNS),
      'phases': table(gated, PHASE_COLUMNS),
  }


def _draw(tree, names, workdir) -> None:
  shown = [
      'stopped/in_distribution/cross_entropy',
      'out_of_distribution/cross_entropy',
      'in_distribution/exact_match',
  ]
  labels = {
      shown[0]: 'in distribution, stopped early: nats',
      shown[1]: 'out of distribution: nats',
      shown[2]: 'in distribution: exact match',
      **COMPRESSION_LABELS,
  }
  figures = {
      'multiplication': experiment_figures.interval_figure(
          tree, shown, names, labels
      )
  }
  for prefix in COMPRESSION_LABELS:
    figures[prefix.split('/')[0]] = experiment_figures.layers_figure(
        tree, prefix, names, labels
    )
  for name, figure in figures.items():
    program.save_figure(figure, workdir / f'{name}.png')


def _sweep(base, tuned, seeds, workdir, seconds) -> None:
  """Everything that GAPT leaves open, and the best of it on fresh seeds."""
  swept = sweep(tuned['weight_decay'], tuned['train_cross_entropy'])
  fresh, more = _FRESH_SEEDS, _PARETO_SEEDS
  if FLAGS.smoke:
    kept = ('ce:0', 'dual:1.1')
    swept = {name: swept[name] for name in kept}
    fresh, more = fresh[:1], seeds
  folder = workdir / 'sweep'
  made = program.train_methods(base, swept, seeds, folder, select=_SELECT)
  summary = results.summarise(made)
  score = lambda name: summary[name][f'stopped/{_SELECT}/cross_entropy']['mean']
  best = min((name for name in swept if name != 'ce:0'), key=score)
  cli.report(f'best on the tuning seeds: {best}; now on fresh seeds')
  confirmed = {'ce_tuned': swept['ce:0'], 'best': swept[best]}
  made_fresh = program.train_methods(
      base, confirmed, fresh, folder, select=_SELECT
  )
  families = {
      name: overrides for name, overrides in swept.items()
      if name.split(':')[0] in _FAMILIES
  }
  made += program.train_methods(
      base,
      families,
      [seed for seed in more if seed not in seeds],
      folder,
      select=_SELECT,
  )
  common = {'base': base, 'tuning': tuned, 'best': best}
  results.write(
      workdir / 'sweep.json',
      experiment='multiplication_sweep',
      claim=_CLAIM,
      command=program.command('multiplication'),
      settings={**common, 'methods': swept},
      rows=made,
      baseline='ce:0',
      tables={
          'sweep': {**_tables(list(swept))['outcome'], 'methods': list(swept)},
          'sweep_entropy': _tables(list(swept))['entropy'],
      },
      wall_seconds=seconds(),
  )
  tables = _tables(list(confirmed))
  results.write(
      workdir / 'fresh.json',
      experiment='multiplication_fresh',
      claim=_CLAIM,
      command=program.command('multiplication'),
      settings={**common, 'methods': confirmed},
      rows=made_fresh,
      baseline='ce_tuned',
      tables={name: tables[name] for name in ('outcome', 'paired', 'entropy')},
      wall_seconds=seconds(),
  )
  _draw_pareto(results.summarise(made), workdir)
  cli.report(f'wrote {workdir}/sweep.json, {workdir}/fresh.json')


def _draw_pareto(summary: Mapping[str, Any], workdir: epath.Path) -> None:
  y = f'{_SELECT}/cross_entropy'
  for name, x in (
      ('pareto', 'entropy/order_2'),
      ('pareto_centered', 'entropy_centered/order_2'),
  ):
    points = {
        label: [
            {
                'knob': None if family == 'ce' else float(key.split(':')[1]),
                x: entries[x],
                y: entries[y],
            }
            for key, entries in summary.items()
            if key.split(':')[0] == family
        ]
        for family, label in _FAMILIES.items()
    }
    figure = experiment_figures.pareto_figure(
        {label: found for label, found in points.items() if found},
        x,
        y,
        {x: 'entropy of the middle layers, nats', y: 'cross-entropy, nats'},
    )
    program.save_figure(figure, workdir / f'{name}.png')


def run() -> None:
  """Entry point."""
  program.define_flags(seeds=5)
  flags.DEFINE_bool(
      'sweep', False, 'Try what GAPT leaves open instead of comparing methods.'
  )
  cli.run(main)


if __name__ == '__main__':
  run()

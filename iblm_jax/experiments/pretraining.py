"""Does GAPT pre-train better than cross-entropy alone?

  python -m iblm_jax.experiments.pretraining --workdir=DIR --text=PATHS
  python -m iblm_jax.experiments.pretraining --workdir=DIR --data=SHARDS --full

Cross-entropy alone, with the entropy at every step, and GAPT, on real text: on
the same tokens, and on the same time (cross-entropy alone may take as many more
steps as it is faster). `--data` is a folder of `iblm_jax.data.prepare`. The
model is one for CPUs (0.8 M parameters); `--full` is the paper's, 124 M
parameters and 115 M tokens, for a GPU or a TPU.
"""

import json
import statistics as python_statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from iblm_jax import cli, config_files, files
from iblm_jax.data import prepare as prepare_lib
from iblm_jax.data.text import tokenising
from iblm_jax.experiments import multiplication
from iblm_jax.experiments._harness import program, results, variants
from iblm_jax.reports import experiment_figures
from iblm_jax.training import loop, metrics
from iblm_jax.training.scale import mesh as mesh_lib

_CLAIM = (
    'GAPT lowers the matrix-based entropy by 50 % and improves cross-entropy by'
    ' 4.8 % in GPT-2 pre-training (arXiv 2505.08727, abstract).'
)
_SELECT = 'validation'
_HOLDOUT = 0.05
_TIMED_STEPS = 20

BASE = variants.change(
    multiplication.BASE,
    {
        'model.width': 128,
        'model.num_heads': 4,
        'model.document_mask': True,
        'data.kind': 'shards',
        'data.batch_size': 8,
        'optimizer.schedule': {
            'name': 'wsd', 'peak': 2e-3, 'warmup_steps': 50
        },
        'train.num_steps': 600,
        'train.eval_every': 100,
        'train.checkpoint_every': 300,
    },
)
_SMALL = config_files.load('fineweb', 'small_ce').to_dict()
# The paper's model, optimizer and number of tokens.
_FULL = {
    'model': _SMALL['model'],
    'data.batch_size': 32,
    'optimizer': _SMALL['optimizer'],
    'optimizer.group_peaks': {'head': 0.008, 'embedding': 0.6, 'scalar': 0.04},
    'train.num_steps': _SMALL['train']['num_steps'],
    'train.eval_every': _SMALL['train']['eval_every'],
    'train.checkpoint_every': 250,
}
_SMOKE = {
    # What is timed is then what is trained: two programs to compile.
    'objective.measure_entropy': False,
    'model.num_layers': 3,
    'model.width': 16,
    'model.scan_layers': True,
    'model.num_heads': 2,
    'data.batch_size': 4,
    'optimizer.schedule.warmup_steps': 2,
    'train.num_steps': 12,
    'train.log_every': 6,
    'train.eval_every': 6,
    'train.checkpoint_every': 6,
}


def methods(num_steps: int, ratio: float) -> dict[str, variants.Overrides]:
  """What is compared, given the steps and what the entropy costs in time.

  A step with the entropy takes `ratio` of one without: `ce_equal_time` has as
  many more steps.
  """
  gapt = {'objective.method': 'gapt'}
  return {
      'ce': {},
      'ce_equal_time': {'train.num_steps': round(num_steps * max(ratio, 1.0))},
      'mbe': {'objective.method': 'mbe'},
      'gapt': gapt,
      'gapt_paper': {**gapt, **multiplication.PAPER},
      'gapt_centered': {**gapt, 'model.entropy.center': True},
      'gapt_unit_rows': {**gapt, 'model.entropy.normalize': True},
  }


def run_experiment(options: Any) -> list[program.Results]:
  """Prepares the text and trains all methods."""
  with cli.refusing():
    base = _with_data(options)
  seeds = range(1 if options.smoke else options.seeds)
  ratio = _time_ratio(base, options)
  compared = methods(base['train']['num_steps'], ratio)
  if options.smoke:
    compared = {name: compared[name] for name in ('ce', 'mbe')}
  rows = program.train_methods(
      options, base, compared, seeds, 'runs', select=_SELECT, max_batches=16
  )
  # Without the folders of the machine.
  public = {**base, 'data': {'batch_size': base['data']['batch_size']}}
  return [
      program.Results(
          rows,
          settings={'base': public, 'methods': compared, 'time_ratio': ratio},
          tables=_tables(list(compared)),
          baseline='ce',
          draw=lambda tree: _draw(
              tree, list(compared), seeds, options.workdir / 'runs'
          ),
      )
  ]


def _with_data(options: Any) -> dict[str, Any]:
  """The base config with its shards, tokenised first where text was given."""
  if (options.data is None) == (options.text is None) and not options.smoke:
    raise ValueError('one of --text and --data must be given.')
  folder = options.data
  if folder is None:
    folder = str(options.workdir / 'data')
    text = options.text
    if text is None:
      text = _made_up_text(options.workdir)
    options.workdir.mkdir(parents=True, exist_ok=True)
    prepare_lib.prepare(
        text.split(','),
        folder,
        tokenising.Options(holdout=0.3 if options.smoke else _HOLDOUT),
        report=cli.report,
    )
  index_path = epath.Path(folder) / 'index.json'
  if not index_path.exists():
    raise ValueError(
        f'data must be a folder of iblm_jax.data.prepare, got {folder!r}: there'
        f' is no {index_path}.'
    )
  index = files.read_object(index_path)
  base = variants.change(BASE, _FULL) if options.full else BASE
  if options.smoke:
    base = variants.change(base, _SMOKE)
  seq_len, eval_rows = 256, 256
  if options.full:
    seq_len, eval_rows = 2048, 5120
  elif options.smoke:
    seq_len, eval_rows = 32, 8
  shards = {
      split: [
          f'{folder}/{shard["name"]}'
          for shard in index['shards']
          if shard['split'] == split
      ]
      for split in ('train', 'validation')
  }
  return variants.change(
      base,
      {
          'model.vocab_size': max(
              index['vocab_size'], base['model'].get('vocab_size', 0)
          ),
          'data.shards': {
              **shards,
              'seq_len': seq_len,
              'eot_id': index['eot_id'],
              'vocab_size': index['vocab_size'],
              'eval_rows': eval_rows,
          },
      },
  )


def _made_up_text(workdir: epath.Path) -> str:
  """A file of random words: enough for --smoke, where no text is given."""
  path = workdir / 'text' / 'words.jsonl'
  if not path.exists():
    rng = np.random.default_rng(0)
    words = [''.join(rng.choice(list('etaoinsh'), 4)) for _ in range(50)]
    lines = [
        json.dumps({'text': ' '.join(rng.choice(words, 100))})
        for _ in range(40)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, '\n'.join(lines) + '\n')
  return str(path)


def _time_ratio(base: Mapping[str, Any], options: Any) -> float:
  """Time of a step with entropy and its gradient to one without; measured once.

  Steps alternate, so that what else the machine does falls on both.
  """
  path = options.workdir / 'timing.json'
  if path.exists():
    return files.read_object(path)['ratio']
  compared = {
      'mbe': {'objective.method': 'mbe'},
      'ce': {'objective.measure_entropy': False},
  }
  with cli.refusing():
    jobs = {
        name: loop.prepare(variants.make_config(base, overrides, seed=0))
        for name, overrides in compared.items()
    }
  states, spent = {}, {name: [] for name in jobs}
  for repeat in range(2 + (3 if options.smoke else _TIMED_STEPS)):
    for name, job in jobs.items():
      step = job.program
      with jax.set_mesh(step.mesh):
        if name not in states:
          states[name] = step.init(jax.random.key(0))
        batch = mesh_lib.put_batch(
            job.source.batch(0), step.batch_sharding, job.cfg.data.batch_size
        )
        jax.block_until_ready((states[name], batch))
        started = time.perf_counter()
        states[name], _ = step.train_step(states[name], batch)
        jax.block_until_ready(states[name])
        if repeat >= 2:
          spent[name].append(time.perf_counter() - started)
  median = {n: python_statistics.median(s) for n, s in spent.items()}
  ratio = median['mbe'] / median['ce']
  files.write_json(
      path, {'ratio': ratio, 'median_seconds': median}, indent=None
  )
  cli.report(f'a step with the entropy takes {ratio:.3f} of one without')
  return ratio


def _tables(names) -> dict[str, Any]:
  outcome = [
      ['validation/cross_entropy', 'CE held out', 4],
      ['train/cross_entropy', 'CE train', 4],
      ['validation/accuracy', 'accuracy', 4],
  ]
  s_2 = ['entropy/order_2', 'S_2', 3]
  others = [name for name in names if name != 'ce']
  tables = {
      'outcome': results.table(names, outcome),
      'paired': results.table(others, [*outcome, s_2], paired=True),
      'relative': results.table(
          others, [*outcome, s_2], paired=True, relative=True
      ),
      'entropy': results.table(names, multiplication.ENTROPY_COLUMNS),
  }
  gated = [name for name in names if name.startswith('gapt')]
  if gated:
    tables['phases'] = results.table(gated, multiplication.PHASE_COLUMNS)
  return tables


def _draw(tree, names, seeds, folder) -> dict[str, Any]:
  labels = {
      'validation/cross_entropy': 'held-out cross-entropy, nats per byte',
      **multiplication.COMPRESSION_LABELS,
  }
  name = f'eval/{_SELECT}/cross_entropy'
  curves = {}
  for method in names:
    if method == 'ce_equal_time':
      continue  # another number of steps
    lines = [
        [
            (line['step'], line[name])
            for line in metrics.read_metrics(
                folder / variants.run_name(method, seed) / 'metrics.jsonl'
            )
            if name in line and line['step']
        ]
        for seed in seeds
    ]
    curves[method] = (
        [step for step, _ in lines[0]],
        np.array([[value for _, value in line] for line in lines]),
    )
  return {
      'pretraining': experiment_figures.interval_figure(
          tree, list(labels)[:3], names, labels
      ),
      'curves': experiment_figures.curves_figure(
          curves, labels['validation/cross_entropy']
      ),
      **multiplication.draw_layers(tree, names, labels),
  }


def _define_flags() -> None:
  flags.DEFINE_string(
      'text', None, 'Text files, as data.prepare takes them, byte by byte.'
  )
  flags.DEFINE_string(
      'data', None, 'Folder of shards of iblm_jax.data.prepare.'
  )
  flags.DEFINE_bool('full', False, "The paper's size, for an accelerator.")


EXPERIMENT = program.Experiment(
    'pretraining', _CLAIM, run_experiment, seeds=3, define_flags=_define_flags
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()

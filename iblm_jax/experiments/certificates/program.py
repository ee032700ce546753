"""What makes a certificate tight?

  python -m iblm_jax.experiments.certificates --workdir=DIR

Certificates for models of documents whose distribution is known, against the
number of coded numbers, the width of the model, the number of documents and the
parameterisation; shuffled and random text as controls; and all bounds on one
model side by side. Each seed is a language of its own, with its own documents.
The base is certified on 20 of them at least, to see whether its bound, which
holds with probability 0.95, ever fails.

Methods are `base` and changes of it in one respect:

  d:N        coded numbers
  width:N    width of the model
  m:N        documents of the training set: those that training draws from and
             those that the bound counts, so that a small m may be overfitted
  kind:NAME  parameterisation
  shuffle:N  characters permuted within windows of N
  random     uniform characters: nothing can be learnt, so no valid bound may
             be below log2 27 = 4.755 bits (but with probability 0.05)
"""

from collections.abc import Mapping
from typing import Any

from iblm_jax import cli
from iblm_jax.bounds import options as bound_options
from iblm_jax.certification import pipeline
from iblm_jax.data.sources import topics
from iblm_jax.experiments._harness import jobs, program, results, variants
from iblm_jax.experiments.certificates import figures
from iblm_jax.experiments.certificates import rows as rows_lib
from iblm_jax.training import config

_CLAIM = (
    'A language model that is trained in a random subspace and coded is'
    ' certified to do better on new documents than guessing, and larger models'
    ' get better certificates (arXiv 2312.17173).'
)
_BASE_SEEDS = 20
# At most so many documents are scored all, for the bounds that need them.
_SCORED = 100_000

BASE: dict[str, Any] = {
    'model': {
        'vocab_size': topics.VOCAB_SIZE,
        'num_layers': 2,
        'width': 64,
        'num_heads': 2,
        'activation': 'relu2',
        'positions': 'rotary',
        'tie_embeddings': False,
        'document_mask': False,
        'scan_layers': False,
    },
    'data': {
        'kind': 'topics',
        'batch_size': 64,
        'topics': {
            'num_train': 1_000_000, 'num_heldout': 10_000, 'length': 64
        },
        'eval_units': 1024,
    },
    'objective': {
        'method': 'ce', 'measure_entropy': False, 'skip_first': 0,
        'skip_last': 0,
    },
    'optimizer': {
        'name': 'adamw',
        'weight_decay': 0.0,
        'clip_norm': 1.0,
        'schedule': {'name': 'cosine', 'peak': 0.08, 'warmup_steps': 40},
    },
    'parameterisation': {'kind': 'subspace', 'dims': (32, 32)},
    'train': {
        'num_steps': 400, 'log_every': 50, 'eval_every': 0,
        'checkpoint_every': 200,
    },
}
_CERTIFICATE: dict[str, Any] = {
    'levels': (15,),
    'codebook': 'kmeans',
    'scheme': 'kt',
    'tuning_steps': 100,
    'tuning_rate': 0.02,
    'sample': 10_000,
    'heldout': 4_000,
    # The methods below, of which a reader may pick the best.
    'search_bits': 5.0,
}
_SMOKE = {
    'model.num_layers': 1,
    'model.width': 16,
    'data.batch_size': 8,
    'data.topics.num_train': 2000,
    'data.topics.num_heldout': 100,
    'data.topics.length': 16,
    'data.eval_units': 16,
    'optimizer.schedule.warmup_steps': 2,
    'parameterisation.dims': (4, 4),
    'train.num_steps': 6,
    'train.log_every': 3,
    'train.checkpoint_every': 3,
}
_SMOKE_CERTIFICATE = {
    'levels': (5,), 'tuning_steps': 2, 'sample': 100, 'heldout': 50,
    'max_tokens': 160,  # all evaluations are of one shape then
}

_ADAPTERS = {'parameterisation.lora': {'rank': 4}}
METHODS: dict[str, variants.Overrides] = {
    'base': {},
    'd:64': {'parameterisation.dims': (8, 8)},
    'd:256': {'parameterisation.dims': (16, 16)},
    'd:4096': {'parameterisation.dims': (64, 64)},
    'width:16': {'model.width': 16},
    'width:32': {'model.width': 32},
    'width:128': {'model.width': 128},
    'm:10000': {'data.topics.num_train': 10_000},
    'm:100000': {'data.topics.num_train': _SCORED},
    'kind:sublora': {'parameterisation.kind': 'sublora', **_ADAPTERS},
    'kind:lora': {
        'parameterisation': {'kind': 'lora'}, **_ADAPTERS,
        'optimizer.schedule.peak': 5e-3,
    },
    'kind:full': {
        'parameterisation': {'kind': 'full'}, 'optimizer.schedule.peak': 5e-3
    },
    'shuffle:4': {'data.topics.shuffle_window': 4},
    'shuffle:16': {'data.topics.shuffle_window': 16},
    'shuffle:64': {'data.topics.shuffle_window': 64},
    'random': {'data.topics.kind': 'uniform'},
}


def run_experiment(options: Any) -> list[program.Results]:
  """Makes the certificates that are left."""
  workdir, folder = options.workdir, options.workdir / 'runs'
  base, methods, certificate = BASE, METHODS, _CERTIFICATE
  seeds, base_seeds = range(options.seeds), _BASE_SEEDS
  if options.smoke:
    base = variants.change(BASE, _SMOKE)
    methods = {'base': {}, 'm:1000': {'data.topics.num_train': 1000}}
    certificate = {**_CERTIFICATE, **_SMOKE_CERTIFICATE}
    seeds, base_seeds = range(1), 0
  with cli.refusing():
    settings = {
        'base': base, 'methods': methods, 'certificate': certificate,
        'seeds': len(seeds),
    }
    program.check_settings(settings, workdir)
    runs = make_runs(base, methods, certificate, seeds, base_seeds)
    for run in runs:
      name = variants.run_name(run.method, run.seed)
      config.check_workdir(run.cfg.run, folder / name)
    pipeline.check_coder()
  program.keep_settings(settings, workdir)
  rows = jobs.make_rows(
      runs,
      rows_lib.make,
      folder,
      key=lambda run: (run.method, run.seed),
      say=rows_lib.say,
      noun='certificates',
      report=cli.report,
      processes=jobs.count(alone=options.smoke),
  )
  return [
      program.Results(
          rows,
          settings,
          make_tables(methods),
          baseline='base',
          draw=figures.make,
          lines=[rows_lib.held_line(rows)],
      )
  ]


def make_runs(
    base: Mapping[str, Any],
    methods: Mapping[str, variants.Overrides],
    certificate: Mapping[str, Any],
    seeds: range,
    base_seeds: int = 0,
) -> list[rows_lib.Run]:
  """Every method on every seed; seeds come first in the order of work.

  `base` is made on `base_seeds` seeds if these are more.

  A seed decides the language, its documents, the initial parameters, the
  subspace and the order of training.
  """
  options = config.build(
      bound_options.CertificateConfig,
      {name: _listed(value) for name, value in certificate.items()},
      'certificate',
  )
  runs = []
  for seed in range(max(len(seeds), base_seeds)):
    for method, overrides in methods.items():
      if method != 'base' and seed not in seeds:
        continue
      changes = {**overrides, 'data.topics.seed': seed}
      cfg = variants.make_config(base, changes, seed=seed)
      assert cfg.data.topics is not None
      runs.append(
          rows_lib.Run(
              method,
              seed,
              pipeline.CertifyConfig(cfg, options),
              score_all=cfg.data.topics.num_train <= _SCORED,
          )
      )
  return runs


def make_tables(methods: Mapping[str, Any]) -> dict[str, Any]:
  """Tables for the page; a family of methods each, with what it is next to."""
  main_columns = [
      ['bound/log_wealth', 'log-wealth bound', 3],
      ['bound/hoeffding', 'Hoeffding bound', 3],
      ['heldout', 'held out', 3],
      ['heldout/unsmoothed', 'held out, before coding', 3],
      ['code_bits', 'bits of code', 0],
      ['bits_per_number', 'bits a number', 2],
      ['top_1/bound', 'bound on top-1 error', 3],
      ['seconds', 'seconds', 0],
  ]
  tables = {}
  for family, base_label in figures.FAMILIES.items():
    members = [name for name in methods if name.startswith(f'{family}:')]
    if family == 'shuffle':
      members += [name for name in methods if name == 'random']
    if not members:
      continue
    tables[family] = results.table(
        figures.ordered(members), main_columns, labels={'base': base_label}
    )
  tables['all_bounds'] = results.table(
      [name for name in ('m:10000', 'm:100000', 'm:1000') if name in methods],
      [
          *([f'all/{kind}', text, 3] for kind, text in figures.KINDS.items()),
          ['bound/hoeffding', 'Hoeffding, sample', 3],
          ['bound/reference', 'reference formula, sample', 3],
          ['bound/log_wealth', 'log-wealth, sample', 3],
          ['heldout', 'held out', 3],
          ['seconds/all', 'seconds, all', 1],
          ['seconds/sample', 'seconds, sample', 2],
      ],
  )
  return tables


def _listed(value):
  return list(value) if isinstance(value, tuple) else value


EXPERIMENT = program.Experiment(
    'certificates', _CLAIM, run_experiment, seeds=5
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()

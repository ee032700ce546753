"""What do the layers of a model look like?

  python -m iblm_jax.experiments.spectrum --workdir=DIR --checkpoint=RUN
  python -m iblm_jax.experiments.spectrum --workdir=DIR \
      --checkpoint=gpt2/model.safetensors --text=corpus.txt

Reads a run of this package, or a GPT-2 in safetensors, and text, and measures
the spectrum of the residual stream after every block: entropies of several
orders, with and without the mean, effective rank, the mean direction's share,
and how they depend on the size of the windows.
"""

from typing import Any

from absl import flags

from iblm_jax import cli
from iblm_jax.analysis import layer_spectra
from iblm_jax.analysis import subject as subject_lib
from iblm_jax.experiments._harness import program
from iblm_jax.experiments.spectrum import figures
from iblm_jax.experiments.spectrum import rows as rows_lib

_CLAIM = (
    'The entropy of a layer is that of its tokens, not of an offset that they'
    ' share.'
)
_FIGURES = ('entropy', 'rank', 'patch_size', 'spectra')


def run_experiment(options: Any) -> list[program.Results]:
  """Reads the model and its text, and measures."""
  workdir = options.workdir
  with cli.refusing():
    subject = _subject(options)
    sizes, base = _sizes(subject, options.smoke)
    settings = subject.settings | {'sizes': list(sizes)}
    program.check_settings(settings, workdir)
  path = workdir / 'results.json'
  made = [path, *(workdir / f'{name}.png' for name in _FIGURES)]
  if all(file.exists() for file in made):
    cli.report(f'finished before: {path}')
    return []
  program.keep_settings(settings, workdir)
  cli.report(
      f'{subject.name}: {subject.model.num_layers} layers of width'
      f' {subject.model.width}, {subject.num_batches} batches of rows of'
      f' {subject.length} tokens'
  )
  found = layer_spectra.measure(
      subject, sizes, workdir / 'sums.npz', cli.report
  )
  return [
      program.Results(
          rows_lib.make_rows(subject, found, sizes, base),
          settings=settings | {'tokens_read': int(found['tokens'])},
          tables=rows_lib.make_tables(subject, subject.length, base),
          draw=lambda tree: _draw(subject, found, sizes, base),
      )
  ]


def _subject(options: Any) -> subject_lib.Subject:
  if options.smoke:
    if options.checkpoint is not None or options.text is not None:
      raise ValueError('--smoke takes neither a checkpoint nor a text.')
    return subject_lib.make_smoke()
  if options.checkpoint is None:
    raise ValueError('--checkpoint must be given (or --smoke).')
  return subject_lib.make(
      options.checkpoint,
      text=options.text,
      tokenizer=options.tokenizer,
      tokens=options.tokens,
  )


def _sizes(
    subject: subject_lib.Subject, smoke: bool
) -> tuple[tuple[int, ...], int]:
  """All window sizes, and the one that the model was trained with."""
  if subject.length < 2:
    raise ValueError(
        f'rows must have at least 2 tokens, got {subject.length}.'
    )
  base = min(subject.model.entropy.patch_size, subject.length)
  if smoke:  # a size takes seconds to compile
    return (base, subject.length), base
  return layer_spectra.patch_sizes(subject.length, base), base


def _draw(subject, found, sizes, base) -> dict[str, Any]:
  two = (base, subject.length) if base < subject.length else (base,)
  name, width = subject.name, subject.model.width
  return {
      'entropy': figures.entropy_figure(found, name, width, two),
      'rank': figures.rank_figure(found, name, two),
      'patch_size': figures.patch_figure(found, name, width, sizes),
      'spectra': figures.spectra_figure(found, name, two),
  }


def _define_flags() -> None:
  flags.DEFINE_string(
      'checkpoint', None, 'Folder of a run, or a model.safetensors of GPT-2.'
  )
  flags.DEFINE_string(
      'text', None, "Text to read; default: a run's own evaluation set."
  )
  flags.DEFINE_string(
      'tokenizer', None, "Of the text; default: the checkpoint's own."
  )
  flags.DEFINE_integer('tokens', 16_384, 'Tokens to read.', lower_bound=1)


EXPERIMENT = program.Experiment(
    'spectrum',
    _CLAIM,
    run_experiment,
    smoke='A tiny model that needs no checkpoint.',
    define_flags=_define_flags,
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()

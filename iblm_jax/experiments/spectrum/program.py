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
from etils import epath

from iblm_jax import cli
from iblm_jax.analysis import layer_spectra as measure_lib
from iblm_jax.analysis import subject as subject_lib
from iblm_jax.experiments._harness import program, results, workdirs
from iblm_jax.experiments.spectrum import figures as draw
from iblm_jax.experiments.spectrum import rows as rows_lib

FLAGS = flags.FLAGS

_CLAIM = (
    'The entropy of a layer is that of its tokens, not of an offset that they'
    ' share.'
)
_FIGURES = ('entropy', 'rank', 'patch_size', 'spectra')


def main() -> None:
  """Reads the model and its text, measures, writes results and figures."""
  workdir = epath.Path(FLAGS.workdir)
  program.check_figures()
  with cli.refusing():
    subject = _subject()
    sizes, base = _sizes(subject)
    settings = subject.settings | {'sizes': list(sizes)}
    workdirs.check_settings(settings, workdir)
  path = workdir / 'results.json'
  made = [path, *(workdir / f'{name}.png' for name in _FIGURES)]
  if all(file.exists() for file in made):
    return cli.report(f'finished before: {path}')
  workdir.mkdir(parents=True, exist_ok=True)
  workdirs.write_json(workdir / 'settings.json', settings)
  cli.report(
      f'{subject.name}: {subject.model.num_layers} layers of width'
      f' {subject.model.width}, {subject.num_batches} batches of rows of'
      f' {subject.length} tokens'
  )
  with program.stopwatch(workdir) as seconds:
    found = measure_lib.measure(
        subject, sizes, workdir / 'sums.npz', cli.report
    )
    results.write(
        path,
        experiment='spectrum',
        claim=_CLAIM,
        command=program.command('spectrum'),
        settings=settings | {'tokens_read': int(found['tokens'])},
        rows=rows_lib.make_rows(subject, found, sizes, base),
        baseline=None,
        tables=rows_lib.make_tables(subject, subject.length, base),
        wall_seconds=seconds(),
    )
    for name, figure in _figures(subject, found, sizes, base).items():
      program.save_figure(figure, workdir / f'{name}.png')
    program.done(workdir, seconds())


def _subject() -> subject_lib.Subject:
  if FLAGS.smoke:
    if FLAGS.checkpoint is not None or FLAGS.text is not None:
      raise ValueError('--smoke takes neither a checkpoint nor a text.')
    return subject_lib.make_smoke()
  if FLAGS.checkpoint is None:
    raise ValueError('--checkpoint must be given (or --smoke).')
  return subject_lib.make(
      FLAGS.checkpoint,
      text=FLAGS.text,
      tokenizer=FLAGS.tokenizer,
      tokens=FLAGS.tokens,
  )


def _sizes(subject: subject_lib.Subject) -> tuple[tuple[int, ...], int]:
  """All window sizes, and the one that the model was trained with."""
  if subject.length < 2:
    raise ValueError(
        f'rows must have at least 2 tokens, got {subject.length}.'
    )
  base = min(subject.model.entropy.patch_size, subject.length)
  if FLAGS.smoke:  # a size takes seconds to compile
    return (base, subject.length), base
  return measure_lib.patch_sizes(subject.length, base), base


def _figures(subject, found, sizes, base) -> dict[str, Any]:
  two = (base, subject.length) if base < subject.length else (base,)
  name, width = subject.name, subject.model.width
  return {
      'entropy': draw.entropy_figure(found, name, width, two),
      'rank': draw.rank_figure(found, name, two),
      'patch_size': draw.patch_figure(found, name, width, sizes),
      'spectra': draw.spectra_figure(found, name, two),
  }


def run() -> None:
  """Entry point."""
  flags.DEFINE_string('workdir', None, 'Folder of the results.')
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
  flags.DEFINE_bool('smoke', False, 'A tiny model that needs no checkpoint.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)


if __name__ == '__main__':
  run()

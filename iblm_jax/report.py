"""Compares runs.

  python -m iblm_jax.report RUN [RUN ...] --out=FOLDER

Writes report.html (self-contained), its figures as PNG, and table.csv. Runs
that have not finished can be compared too.
"""

import io

from absl import flags
from etils import epath

from iblm_jax import cli, files
from iblm_jax.reports import figures, page
from iblm_jax.reports import runs as runs_lib

FLAGS = flags.FLAGS

_FIGURES = (
    (
        'loss',
        'Loss and phases',
        'Cross-entropy of every run. The strips mark the steps at which a gated'
        ' run added the entropy to its loss.',
        figures.loss_figure,
    ),
    (
        'entropy',
        'Entropy of every layer in training',
        'Matrix-based entropy of the residual stream after each block, on the'
        ' training batches. It is not centred unless the config says so: an'
        ' offset that all tokens share lowers it without removing information.',
        figures.entropy_figure,
    ),
    (
        'profile',
        'Where the entropy is, and what the model gets right',
        'Left: entropy by layer at the last evaluation. Right: share of rows'
        ' whose counted tokens are all right, and of tokens (dashed).',
        figures.profile_figure,
    ),
)


def main(workdirs: list[str]) -> None:
  """Reads the runs, then writes the report."""
  with cli.refusing():
    figures.check_matplotlib()
    runs = runs_lib.read_runs(workdirs)
  out = epath.Path(FLAGS.out)
  out.mkdir(parents=True, exist_ok=True)
  drawn = []
  for name, heading, text, draw in _FIGURES:
    figure = draw(runs)
    if figure is None:
      continue
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    files.write_bytes(out / f'{name}.png', buffer.getvalue())
    drawn.append((heading, text, buffer.getvalue()))
  rows = runs_lib.table(runs)
  files.write_text(out / 'table.csv', runs_lib.to_csv(rows))
  title = ' against '.join(run.name for run in runs)
  files.write_text(out / 'report.html', page.make_page(title, rows, drawn))
  cli.report(f'wrote {out}/report.html')


def run() -> None:
  """Defines the flags and starts the program."""
  cli.DEFINE_folder('out', 'Folder for the report.')
  flags.mark_flag_as_required('out')
  cli.run(main, positional='RUN [RUN ...]')


if __name__ == '__main__':
  run()

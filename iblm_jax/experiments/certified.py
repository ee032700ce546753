"""One table of certificates that were made elsewhere.

  python -m iblm_jax.experiments.certified --workdir=DIR --runs=A,B

A and B are workdirs of `iblm_jax.certify`; their names are those of the rows.
Nothing is computed anew: `iblm_jax.certify --verify` does that.
"""

import json
from typing import Any

from absl import flags
from etils import epath

from iblm_jax import cli
from iblm_jax.experiments._harness import program, results
from iblm_jax.experiments.certificates import rows as certificates_run

FLAGS = flags.FLAGS

_CLAIM = (
    'Models that were trained in a random subspace and coded are certified to'
    ' do better than guessing on documents that they were not trained on'
    ' (arXiv 2312.17173).'
)
# Names of metrics, what the page calls them, digits after the point.
_MAIN = (
    ('units', 'm', 0),
    ('numbers', 'd', 0),
    ('code_bits', 'bits of code', 0),
    ('unigram', 'best without context', 3),
    ('empirical', 'scored units', 3),
    ('bound/log_wealth', 'log-wealth bound', 3),
    ('bound/hoeffding', 'Hoeffding bound', 3),
    ('heldout', 'held out', 3),
    ('heldout/unsmoothed', 'held out, before coding', 3),
    ('top_1/bound', 'bound on top-1 error', 3),
    ('top_1/heldout', 'top-1 error held out', 3),
    ('seconds', 'seconds', 0),
)
_FINITE = (
    ('population', 'N', 0),
    ('units', 'm', 0),
    ('bound/log_wealth_finite', 'bound on all N', 3),
    ('unseen/log_wealth_finite', 'on those not seen', 3),
    ('bound/log_wealth', 'independent draws', 3),
    ('bound/serfling', 'Serfling', 3),
    ('bound/counting', 'counting', 3),
    ('heldout', 'held out', 3),
)


def main() -> None:
  """Reads the certificates, writes the table's file."""
  with cli.refusing():
    rows = [read_row(epath.Path(run)) for run in FLAGS.runs]
    names = [row['method'] for row in rows]
    if not rows or len(set(names)) < len(names):
      raise ValueError(
          f'--runs must be folders of distinct names, got {names}.'
      )
    workdir = epath.Path(FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    finite = [row['method'] for row in rows if 'unseen/log_wealth' in row]
    tables: dict[str, Any] = {'main': _table(names, _MAIN)}
    if finite:
      tables['finite'] = _table(finite, _FINITE)
    results.write(
        workdir / 'results.json',
        experiment='certified',
        claim=_CLAIM,
        command=program.command('certified'),
        settings={'runs': names},
        rows=rows,
        baseline=None,
        tables=tables,
        wall_seconds=sum(row['seconds'] for row in rows),
    )
  cli.report(certificates_run.held_line(rows))
  program.done(workdir, sum(row['seconds'] for row in rows))


def read_row(run: epath.Path) -> dict[str, Any]:
  """The row of a certificate; ValueError where a folder holds none."""
  path = run / 'certificate' / 'certificate.json'
  if not path.exists():
    raise ValueError(f'{path} does not exist: make it with iblm_jax.certify.')
  tree = json.loads(path.read_text())
  row = certificates_run.make_row(tree)
  size = tree['population']['size']
  return {
      'method': run.name,
      'seed': tree['model']['config']['train']['seed'],
      **row,
      **({} if size is None else {'population': size}),
  }


def _table(names, columns) -> dict[str, Any]:
  return {
      'methods': names,
      'columns': [list(column) for column in columns],
      'paired': False,
  }


def run() -> None:
  """Entry point."""
  flags.DEFINE_string('workdir', None, 'Folder of the table.')
  flags.DEFINE_list('runs', [], 'Workdirs of certificates.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)


if __name__ == '__main__':
  run()

"""One table of certificates that were made elsewhere.

  python -m iblm_jax.experiments.certified --workdir=DIR --runs=A,B

A and B are workdirs of `iblm_jax.certify`; their names are those of the rows.
Nothing is computed anew: `iblm_jax.certify --verify` does that.
"""

from typing import Any

from absl import flags
from etils import epath

from iblm_jax import cli
from iblm_jax.certification import certificate, comparison
from iblm_jax.experiments._harness import program, results
from iblm_jax.experiments.certificates import rows as rows_lib

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


def run_experiment(options: Any) -> list[program.Results]:
  """Reads the certificates."""
  with cli.refusing():
    rows = [read_row(epath.Path(run)) for run in options.runs]
    names = [row['method'] for row in rows]
    if not rows or len(set(names)) < len(names):
      raise ValueError(
          f'--runs must be folders of distinct names, got {names}.'
      )
    options.workdir.mkdir(parents=True, exist_ok=True)
  tables = {'main': results.table(names, _MAIN)}
  finite = [row['method'] for row in rows if 'unseen/log_wealth' in row]
  if finite:
    tables['finite'] = results.table(finite, _FINITE)
  return [
      program.Results(
          rows,
          settings={'runs': names},
          tables=tables,
          lines=[rows_lib.held_line(rows)],
          seconds=sum(row['seconds'] for row in rows),
      )
  ]


def read_row(run: epath.Path) -> dict[str, Any]:
  """The row of a certificate; ValueError where a folder holds none."""
  path = run / 'certificate' / 'certificate.json'
  if not path.exists():
    raise ValueError(f'{path} does not exist: make it with iblm_jax.certify.')
  with comparison.in_one_line(path.parent):
    tree = certificate.read_tree(path.parent)
    row = rows_lib.make_row(tree)
    size = tree['population']['size']
    return {
        'method': run.name,
        'seed': tree['model']['config']['train']['seed'],
        **row,
        **({} if size is None else {'population': size}),
    }


EXPERIMENT = program.Experiment(
    'certified',
    _CLAIM,
    run_experiment,
    smoke='',
    define_flags=lambda: flags.DEFINE_list(
        'runs', [], 'Workdirs of certificates.'
    ),
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()

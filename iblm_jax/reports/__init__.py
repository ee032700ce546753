"""From runs and results on disk to tables, figures and pages.

`read_runs` reads the folders of runs, and `loss_figure`, `entropy_figure` and
`profile_figure` compare them; the other figures are of experiments over seeds.
`rewrite` fills in the tables and numbers of a page in Markdown. Figures are
those of matplotlib (extra 'plot').
"""

from iblm_jax.reports.cycle_figures import cycle_figure, surrogate_figure
from iblm_jax.reports.experiment_figures import (
    curves_figure,
    interval_figure,
    layers_figure,
    pareto_figure,
)
from iblm_jax.reports.figures import (
    entropy_figure,
    loss_figure,
    profile_figure,
)
from iblm_jax.reports.page import make_page
from iblm_jax.reports.runs import Run, read_runs, table, to_csv
from iblm_jax.reports.statistics import mean_ci, paired
from iblm_jax.reports.tables import lookup, make_table, make_value, rewrite

__all__ = [
    'Run',
    'curves_figure',
    'cycle_figure',
    'entropy_figure',
    'interval_figure',
    'layers_figure',
    'lookup',
    'loss_figure',
    'make_page',
    'make_table',
    'make_value',
    'mean_ci',
    'paired',
    'pareto_figure',
    'profile_figure',
    'read_runs',
    'rewrite',
    'surrogate_figure',
    'table',
    'to_csv',
]

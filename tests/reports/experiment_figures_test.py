"""Figures of experiments: what is drawn where, not its pixels."""

import io
import math

import numpy as np
import pytest

from iblm_jax.experiments._harness import results as results_lib
from iblm_jax.reports import cycle_figures, experiment_figures

pytest.importorskip('matplotlib')

ROWS = [
    {
        'method': method,
        'seed': seed,
        'loss': 2.0 + seed + index,
        'entropy/layer_00': 3.0 + seed,
        'entropy/layer_10': 1.0 + 2 * seed,
    }
    for index, method in enumerate(('ce', 'gapt'))
    for seed in range(3)
]
RESULTS = {'rows': ROWS, 'summary': results_lib.summarise(ROWS)}
T3 = 4.302653 / math.sqrt(3)  # half the 95 % interval of (x, x + 1, x + 2)


def rendered(figure):
  """Draws it: what cannot be laid out warns or fails here."""
  figure.savefig(io.BytesIO(), format='png', dpi=40)
  return [axis for axis in figure.axes if axis.get_visible()]


def segments(axis):
  """Error bars of an axis, [2, 2] each, in the order drawn."""
  found = [segment for c in axis.collections for segment in c.get_segments()]
  return [np.asarray(segment) for segment in found if len(segment)]


def texts(axis):
  return [text.get_text() for text in axis.texts]


def test_intervals_and_seeds_of_every_method():
  figure = experiment_figures.interval_figure(
      RESULTS, ['loss', 'entropy/layer_00'], ['gapt', 'ce'], {'loss': 'Loss'}
  )
  left, right = rendered(figure)
  assert left.get_title(loc='left') == 'Loss'
  assert right.get_title(loc='left') == 'entropy/layer_00'
  assert [t.get_text() for t in left.get_yticklabels()] == ['gapt', 'ce']
  dots = [list(line.get_xdata()) for line in left.lines]
  dots = [xs for xs in dots if len(xs) == 3]
  assert dots == [[3.0, 4.0, 5.0], [2.0, 3.0, 4.0]]
  bars = [segment[:, 0] for segment in segments(left)]
  np.testing.assert_allclose(bars[0], [4 - T3, 4 + T3], rtol=1e-5)
  np.testing.assert_allclose(bars[1], [3 - T3, 3 + T3], rtol=1e-5)


@pytest.mark.parametrize('count', [1, 4, 5])
def test_a_panel_per_metric(count):
  rows = [
      {'method': 'ce', 'seed': 0, **{f'm{i}': None if i else 1.0 for i in
                                     range(count)}}
  ]
  results = {'rows': rows, 'summary': results_lib.summarise(rows)}
  metrics = [f'm{i}' for i in range(count)]
  figure = experiment_figures.interval_figure(results, metrics, ['ce'])
  titles = [axis.get_title(loc='left') for axis in rendered(figure)]
  assert titles == metrics


def test_families_are_joined_along_their_knob_and_marked():
  entry = RESULTS['summary']['ce']['loss']
  points = {
      'constant': [
          {'knob': 0.1, 'x': 1.0, 'y': entry},
          {'knob': 0.25, 'x': 3.0, 'y': 1.5},
          {'knob': 0.0, 'x': 2.0, 'y': 2.0},
      ],
      'CE': [{'knob': None, 'x': 2.5, 'y': 2.5}],
  }
  figure = experiment_figures.pareto_figure(points, 'x', 'y', {'x': 'entropy'})
  (axis,) = rendered(figure)
  assert (axis.get_xlabel(), axis.get_ylabel()) == ('entropy', 'y')
  assert sorted(texts(axis)) == ['0', '0.1', '0.25']
  legend = [text.get_text() for text in axis.get_legend().get_texts()]
  assert legend == ['constant', 'CE']
  joined = axis.lines[0]
  assert list(joined.get_xdata()) == [1.0, 3.0, 2.0]
  (bar,) = [s for s in segments(axis) if np.ptp(s[:, 1]) > 0]
  np.testing.assert_allclose(bar[:, 1], [3 - T3, 3 + T3], rtol=1e-5)


@pytest.mark.parametrize(
    'low, scale', [(0.1, 'log'), (0.11, 'linear'), (-1.0, 'linear')]
)
def test_a_wide_range_is_drawn_on_a_logarithmic_scale(low, scale):
  points = {
      'a': [{'knob': 1.0, 'x': low, 'y': 1.0}],
      'b': [{'knob': 1.0, 'x': 3.0, 'y': 1.0}],
  }
  (axis,) = rendered(experiment_figures.pareto_figure(points, 'x', 'y'))
  assert axis.get_xscale() == scale


def test_marks_of_crowded_points_do_not_cover_each_other():
  points = {
      f'family {i}': [
          {'knob': 10.0**k, 'x': k + 0.05 * i, 'y': k + 0.03 * i}
          for k in range(4)
      ]
      for i in range(3)
  }
  figure = experiment_figures.pareto_figure(points, 'x', 'y')
  (axis,) = rendered(figure)
  boxes = [text.get_window_extent() for text in axis.texts]
  assert len(boxes) == 12
  for index, box in enumerate(boxes):
    assert box.count_overlaps(boxes[:index]) == 0


def test_cycle_has_a_panel_for_each_part():
  steps = np.arange(0, 50, 5)
  cosine = np.cos(steps / 7.0)
  series = {
      'step': steps,
      'cosine': cosine,
      'control': 0 * cosine,
      'layers': {'block 0': cosine / 2, 'block 1': -cosine / 4},
      'norms': {'cross-entropy': 1 + cosine**2, 'entropy': 0.1 + cosine**2},
  }
  figure = cycle_figures.cycle_figure(series, flips=[15, 35])
  top, heat, norms, bar = rendered(figure)
  labels = [text.get_text() for text in top.get_legend().get_texts()]
  assert labels == ['positive', 'split halves', 'cosine', 'sign changes']
  mesh = heat.collections[0]
  assert mesh.norm.vmin == -mesh.norm.vmax == -0.5  # white is zero
  assert mesh.get_array().shape == (2, 10)
  assert [t.get_text() for t in heat.get_yticklabels()] == [
      'block 0', 'block 1',
  ]
  assert norms.get_yscale() == 'log'
  assert bar.get_ylabel() == 'cosine'


def test_cycle_without_layers_or_norms_is_one_panel():
  series = {'step': [0], 'cosine': [0.5]}
  assert len(rendered(cycle_figures.cycle_figure(series))) == 1
  series |= {'layers': {'all': [None]}, 'control': [None]}
  assert len(rendered(cycle_figures.cycle_figure(series))) == 3


def test_surrogates_share_one_axis_and_tell_the_tails():
  figure = cycle_figures.surrogate_figure(
      4, {'batches': [5, 6, 7], 'phases': [3, 4, 90]}
  )
  left, right = rendered(figure)
  # The observed series counts as a draw: 1 of 4; 3 of 4 and 3 of 4.
  assert left.get_title(loc='left') == 'batches\nshare ≤ 0.25, share ≥ 1'
  assert right.get_title(loc='left') == 'phases\nshare ≤ 0.75, share ≥ 0.75'
  assert left.get_xlim() == right.get_xlim()
  for axis, total in ((left, 3), (right, 3)):
    assert sum(bar.get_height() for bar in axis.patches) == total
    assert list(axis.lines[0].get_xdata()) == [4, 4]


def test_layers_stand_at_their_number():
  figure = experiment_figures.layers_figure(
      RESULTS, 'entropy', ['ce', 'gapt'], {'entropy': 'nats', 'ce': 'CE only'}
  )
  (axis,) = rendered(figure)
  assert axis.get_ylabel() == 'nats'
  lines = [line for line in axis.lines if line.get_linestyle() == '-']
  assert len(lines) == 2
  for line in lines:
    np.testing.assert_allclose(list(line.get_xdata()), [0, 10], atol=0.1)
    assert list(line.get_ydata()) == [4.0, 3.0]
  labels = [text.get_text() for text in axis.get_legend().get_texts()]
  assert labels == ['CE only', 'gapt']


def test_layers_that_no_method_has_are_refused():
  with pytest.raises(ValueError, match="prefix='entropie'"):
    experiment_figures.layers_figure(RESULTS, 'entropie', ['ce'])


def test_curves_have_the_mean_and_its_band():
  values = [[1.0, 5.0, 7.0], [2.0, None, 8.0], [3.0, None, 9.0]]
  figure = experiment_figures.curves_figure({'ce': ([0, 10, 20], values)})
  (axis,) = rendered(figure)
  assert list(axis.lines[0].get_ydata()) == [2.0, 5.0, 8.0]
  band = np.concatenate([p.vertices for p in axis.collections[0].get_paths()])
  at_20 = band[band[:, 0] == 20][:, 1]
  np.testing.assert_allclose(
      [at_20.min(), at_20.max()], [8 - T3, 8 + T3], rtol=1e-5
  )

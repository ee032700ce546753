"""Tables and values of pages against text written by hand."""

import copy

import pytest

from iblm_jax.reports import tables


def entry(mean, low, high, n, relative=None):
  made = {'mean': mean, 'ci95': [low, high], 'n': n}
  return made if relative is None else made | {'relative': relative}


RESULTS = {
    'wall_seconds': 61.5,
    'machine': {'cpus': 2, 'devices': '1 x cpu'},
    'summary': {
        'ce': {
            'loss': entry(2.0, 1.5, 2.5, 5),
            'entropy/order_2': entry(1, 1, 1, 5),
        },
        'gapt_0.5': {'loss': entry(1.25, None, None, 1)},
        'mbe': {
            'loss': entry(-0.0004, -0.3, 0.25, 5),
            'entropy/order_2': entry(0.5, 0.4, 0.6, 3),
        },
    },
    'paired': {
        'baseline': 'ce',
        'gapt_0.5': {
            'loss': entry(-0.75, None, None, 1,
                          {'mean': -37.5, 'ci95': [None, None]}),
        },
        'mbe': {
            'loss': entry(-2.0, -2.5, 0.5, 5,
                          {'mean': -100.0, 'ci95': [-125.0, 25.0]}),
        },
    },
    'tables': {
        'main': {
            'methods': ['ce', 'mbe', 'gapt_0.5'],
            'columns': [['loss', 'Loss', 2], ['entropy/order_2', 'S, nats', 1]],
            'paired': False,
            'labels': {'mbe': 'constant'},
        },
        'change': {
            'methods': ['ce', 'mbe', 'gapt_0.5'],
            'columns': [['loss', 'Loss', 2]],
            'paired': True,
            'labels': {'ce': 'CE only'},
        },
    },
}
MAIN = """\
| method | Loss | S, nats | seeds |
| --- | ---: | ---: | ---: |
| ce | 2.00 [1.50, 2.50] | 1.0 [1.0, 1.0] | 5 |
| constant | 0.00 [-0.30, 0.25] | 0.5 [0.4, 0.6] | 3–5 |
| gapt_0.5 | 1.25 | – | 1 |
"""
CHANGE = """\
| against CE only | Loss | seeds |
| --- | ---: | ---: |
| mbe | -2.00 [-2.50, +0.50] | 5 |
| gapt_0.5 | -0.75 | 1 |
"""


def rewrite(page, results=RESULTS):
  files = {'a.json': results}
  return tables.rewrite(page, files.__getitem__)


def test_table_of_means():
  assert tables.make_table(RESULTS, 'main') == MAIN


def test_table_of_differences_leaves_the_baseline_out():
  assert tables.make_table(RESULTS, 'change') == CHANGE


def test_table_in_percent():
  results = copy.deepcopy(RESULTS)
  results['tables']['change'] |= {'relative': True}
  results['tables']['change']['columns'][0][2] = 0
  lines = tables.make_table(results, 'change').splitlines()
  assert lines[0] == '| against CE only, % | Loss | seeds |'
  assert lines[2] == '| mbe | -100 [-125, +25] | 5 |'


def test_no_such_table():
  with pytest.raises(ValueError, match=r"one of \['change', 'main'\], got 'm'"):
    tables.make_table(RESULTS, 'm')


def test_only_the_marked_parts_of_a_page_change():
  page = (
      '# Title\n\n<!-- table: a.json main -->\nold\n\nlines\n<!-- end -->\n\n'
      'It took <!-- value: a.json wall_seconds 0 -->?<!-- end --> s, then\n'
      '<!-- table: a.json change -->\n<!-- end -->\n<!-- other -->\n'
  )
  new = rewrite(page)
  assert new == (
      f'# Title\n\n<!-- table: a.json main -->\n{MAIN}<!-- end -->\n\n'
      'It took <!-- value: a.json wall_seconds 0 -->62<!-- end --> s, then\n'
      f'<!-- table: a.json change -->\n{CHANGE}<!-- end -->\n<!-- other -->\n'
  )
  assert rewrite(new) == new


@pytest.mark.parametrize(
    'path, shown',
    [
        ('summary.mbe.entropy/order_2.mean 3', '0.500'),
        ('summary.gapt_0.5.loss.mean 1', '1.2'),
        ('summary.mbe.loss.ci95.1 +2', '+0.25'),
        ('summary.mbe.loss 1', '0.0 [-0.3, 0.2]'),
        ('paired.mbe.loss.relative +0', '-100 [-125, +25]'),
        ('summary.mbe.loss.n', '5'),
        ('machine.devices', '1 x cpu'),
    ],
)
def test_values(path, shown):
  start = f'so <!-- value: a.json {path} -->'
  assert rewrite(f'{start}<!-- end -->.') == f'{start}{shown}<!-- end -->.'


def test_a_marker_may_run_over_two_lines():
  page = '<!-- value: a.json\nwall_seconds 1 -->\nold<!-- end -->'
  assert rewrite(page) == (
      '<!-- value: a.json\nwall_seconds 1 -->61.5<!-- end -->'
  )


@pytest.mark.parametrize(
    'page, match',
    [
        ('<!-- table: a.json main -->\n| x |\n', 'not closed'),
        (
            '<!-- value: a.json wall_seconds 0 -->1\n'
            '<!-- table: a.json main -->\n<!-- end -->',
            'not closed by .*: .*wall_seconds',
        ),
        ('<!-- table: a.json -->\n<!-- end -->', 'not understood'),
        ('<!-- value: a.json wall_seconds 1f --><!-- end -->', 'understood'),
        ('<!-- value: a.json wall_seconds --><!-- end -->', 'cannot be shown'),
        ('<!-- value: a.json machine.devices 2 --><!-- end -->', 'be shown'),
        ('<!-- value: a.json summary.ce 2 --><!-- end -->', 'be shown'),
        ('<!-- value: a.json summary.c 2 --><!-- end -->', '0 values at .*c'),
        ('<!-- value: a.json summary.mbe.loss.ci95.2 2 --><!-- end -->',
         '0 values'),
    ],
)
def test_bad_blocks_are_refused(page, match):
  with pytest.raises(ValueError, match=match):
    rewrite(page)


def test_a_path_that_means_two_things_is_refused():
  with pytest.raises(ValueError, match='2 values'):
    tables.lookup({'a': {'b': 1}, 'a.b': 2}, 'a.b')

"""Jobs in processes of their own."""

import os

import pytest
from etils import epath
from whereabouts import Where

from iblm_jax.experiments._harness import jobs


def test_a_core_for_each_process():
  cores = sorted(os.sched_getaffinity(0))[:2]
  made = dict(jobs.each(range(6), Where, 10, len(cores)))
  assert {job: value for job, (_, _, value) in made.items()} == {
      job: job + 10 for job in range(6)
  }
  where = {pid: tuple(allowed) for allowed, pid, _ in made.values()}
  assert os.getpid() not in where
  # None has a core that another has.
  assert len(set(where.values())) == len(where)
  assert set(where.values()) <= {(core,) for core in cores}


def test_one_process_is_this_one():
  ((job, (_, pid, value)),) = jobs.each([1], Where, 10, 1)
  assert (job, pid, value) == (1, os.getpid(), 11)


def test_an_error_in_a_process_is_raised_here():
  with pytest.raises(TypeError):  # a number is added to a text
    list(jobs.each(['a', 'b'], Where, 10, 2))


def test_rows_are_kept_and_not_made_again(tmp_path):
  made, lines = [], []

  def make(run, folder, report):
    made.append(run)
    report(f'{run} in {folder.name}')
    return {'value': run[1] + 0.5}

  def rows(runs):
    return jobs.make_rows(
        runs, make, epath.Path(tmp_path), key=lambda run: run,
        say=lambda row: f'value {row["value"]}', noun='runs',
        report=lines.append, depth=lambda run: run[1],
    )

  # Deeper runs wait, and rows keep the order of their runs.
  runs = [('a', 2), ('b', 0), ('a', 1)]
  found = rows(runs)
  assert made == [('b', 0), ('a', 1), ('a', 2)]
  assert found == [
      {'method': method, 'seed': seed, 'value': seed + 0.5}
      for method, seed in runs
  ]
  assert lines[0].startswith('1/3 runs | b, seed 0: value 0.5 | ')
  assert (tmp_path / 'b_seed_0' / 'log.txt').read_text() == (
      "('b', 0) in b_seed_0\n"
  )
  (tmp_path / 'a_seed_1' / 'row.json').unlink()
  lines.clear()
  assert rows(runs) == found and made[3:] == [('a', 1)]
  assert lines[0] == '2 of 3 runs are there'

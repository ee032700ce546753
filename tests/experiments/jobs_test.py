"""Jobs in processes of their own."""

import os

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

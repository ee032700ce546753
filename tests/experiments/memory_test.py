"""The experiment on memory: its methods, its runs and its program."""

import dataclasses
import json
import math

import observations
import programs
import pytest
from etils import epath

from iblm_jax.data.sources import markov
from iblm_jax.experiments._harness import results
from iblm_jax.experiments.memory import language as memory_language
from iblm_jax.experiments.memory import methods as memory_methods
from iblm_jax.experiments.memory import program as memory
from iblm_jax.experiments.memory import rows as memory_run
from iblm_jax.experiments.memory import tables as memory_tables

METHODS = memory_methods.methods(tuple(memory_methods.FAMILIES))


def plan(tmp_path, methods=METHODS, seeds=(0, 1), text=None, smoke=False):
  return memory_run.plan(
      methods, seeds, epath.Path(tmp_path), text=text, smoke=smoke
  )


def test_all_runs_are_what_they_say(tmp_path):
  runs = {run.name: run for run in plan(tmp_path, seeds=(3,))}
  assert set(runs) == {n for n in METHODS if not n.startswith('bytes:')}
  for run in runs.values():
    cfg = run.cfg
    assert (cfg.train.seed, cfg.data.seed) == (3, 3)
    if cfg.data.kind == 'markov':
      assert cfg.data.markov.seed == 3
    if run.method.after is not None:
      donor = runs[run.method.after]
      assert run.donor == donor.cfg
      assert cfg.start.workdir == str(tmp_path / f'{donor.name}_seed_3')
      learns = run.name in ('combined:ae', 'memory:causal_ae')
      assert cfg.frozen == (() if learns else ('^encoder/',))
  weights = [runs[f'combined:{w}'].cfg.task for w in ('0.25', '0.5', '1')]
  assert [task.copy_weight for task in weights] == [0.25, 0.5, 1.0]
  assert {task.kind for task in weights} == {'combined'}
  assert runs['causal:w128'].cfg.model.width == 128
  assert runs['ae:r4'].cfg.model.compression == 4
  assert runs['ae:L32'].cfg.model.encoder.mixer.length == 32
  assert runs['ae:attention'].cfg.model.encoder.mixer is None
  # Equal numbers of updates of the decoder, along every way of the curriculum.
  def total(name):
    after = runs[name].method.after
    earlier = total(after) if after and after.startswith('frozen') else 0
    return runs[name].cfg.train.num_steps + earlier

  for n in memory_methods.BUDGETS:
    for way in ('blank', 'direct', 'twice', 'staged'):
      assert total(f'frozen_ae:{way}:{n}') == n
    # The second stage is the same but for what it begins with.
    twice, staged = (
        dataclasses.replace(runs[f'frozen_ae:{way}:{n}'].cfg, start=None)
        for way in ('twice', 'staged')
    )
    assert twice == staged
  last = memory_methods.LAST
  for way in ('blank', 'staged'):
    assert total(f'frozen_causal:{way}:{last}') == last
  assert total('no_memory:copy') == last
  assert runs['combined:tokens'].cfg.task.copying == 'copy'
  assert runs['frozen_ae:combined'].cfg.task.copying == 'blank_copy'
  some = [runs[name] for name in ('causal:1x', 'ae:8', 'frozen_ae:blank:50')]
  memory_run.check(some, epath.Path(tmp_path))
  assert not list(tmp_path.iterdir())


def test_bytes(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text('\n'.join(f'a line of some text, {i}' for i in range(900)))
  methods = memory_methods.methods(('bytes',))
  runs = plan(tmp_path / 'runs', methods, (0,), str(path))
  assert [run.name for run in runs] == list(methods)
  for run in runs:
    assert run.cfg.data.text.paths == (str(path),)
  memory_run.check(runs, epath.Path(tmp_path / 'runs'))
  assert not plan(tmp_path, methods, (0,))


def test_what_a_run_starts_from_comes_first(tmp_path):
  depths = {
      run.name: memory_run.depth(run, METHODS) for run in plan(tmp_path)
  }
  assert depths['ae'] == 0
  assert depths['frozen_ae:combined'] == 3
  assert depths['frozen_causal:staged:400'] == 2
  with pytest.raises(ValueError, match='starts from ae:8, which is not among'):
    plan(tmp_path, memory_methods.methods(('curriculum',)))


def test_best_loss_is_between_the_entropy_rate_and_guessing():
  for seed in range(2):
    options = markov.MarkovConfig(
        vocab_size=memory_methods.VOCAB, num_topics=memory_methods.TOPICS,
        seed=seed,
    )
    # The topic, log(topics) nats at most, is learned from the row itself.
    rate = markov.entropy_rate(options)
    longest = memory_methods.CHUNKS * memory_methods.CHUNK_LENGTH
    most = rate + math.log(memory_methods.TOPICS) / longest
    assert rate - 0.05 < memory_language.best_loss(seed) < most + 0.05


def test_unknown_family():
  with pytest.raises(ValueError, match=r"families must name .*'more'"):
    memory_methods.methods(('memory', 'more'))
  with pytest.raises(ValueError, match='have nothing for smoke'):
    memory_methods.methods(('needle',), smoke=True)


def test_entropy_of_a_text_is_that_of_its_language():
  """Between that of its topic's chain and with the topic's own entropy."""
  options = markov.MarkovConfig(
      vocab_size=memory_methods.VOCAB, num_topics=memory_methods.TOPICS,
      length=16, seed=1,
  )
  bits = memory_language.text_bits(options)
  rate = markov.entropy_rate(options)
  least = (math.log(memory_methods.VOCAB) + 15 * rate) / math.log(2)
  assert least - 1 < bits < least + math.log2(memory_methods.TOPICS) + 1


def test_rows_are_compared_within_their_seed():
  rows = [
      {'method': 'causal:4x', 'seed': 0, 'probe/recovered_bits': 4.0,
       'causal/cross_entropy': 2.0},
      {'method': 'causal:4x', 'seed': 1, 'probe/recovered_bits': 5.0,
       'causal/cross_entropy': 2.0},
      {'method': 'ae', 'seed': 1, 'probe/recovered_bits': 20.0},
      {'method': 'bytes:ae', 'seed': 1, 'probe/recovered_bits': 20.0},
      {'method': 'bytes:memory', 'seed': 1, 'causal/cross_entropy': 2.0},
      {'method': 'memory:causal', 'seed': 1, 'causal/cross_entropy': 2.0},
      {'method': 'memory:causal', 'seed': 0, 'causal/cross_entropy': 1.0},
      {'method': 'combined:1', 'seed': 1, 'causal/cross_entropy': 2.5},
      {'method': 'frozen_ae:staged:100', 'seed': 1, 'copy/accuracy': 0.75},
      {'method': 'frozen_ae:twice:100', 'seed': 1, 'copy/accuracy': 0.5},
      {'method': 'frozen_ae:direct:100', 'seed': 0, 'copy/accuracy': 0.5},
  ]
  memory_tables.compare(rows)
  said = {
      name: [i for i, row in enumerate(rows) if name in row]
      for name in (*memory_tables._BESIDE, 'excess')
  }
  assert {name: where for name, where in said.items() if where} == {
      'times_causal': [2],
      'causal_change': [7],
      'over_twice': [8],
      'excess': [0, 1, 5, 6, 7],
  }
  assert rows[2]['times_causal'] == 4
  assert rows[7]['causal_change'] == 25
  assert rows[8]['over_twice'] == 0.25
  for row in rows[:2]:
    best = memory_language.best_loss(row['seed'])
    assert row['excess'] == 2 - best


def test_what_is_compared_is_there():
  for beside in memory_tables._BESIDE.values():
    assert {*beside.others, *beside.others.values()} <= set(METHODS)


def test_tables_and_figures(tmp_path):
  """From rows that were made up."""
  rows = [
      {
          'method': name, 'seed': seed, 'cross_entropy': 1.0 + seed,
          'accuracy': 0.5, 'copy/accuracy': 0.3, 'blank_copy/accuracy': 0.2,
          'causal/cross_entropy': 2.0, 'probe/recovered_bits': 3.0 + seed,
          'probe/accuracy': 0.4, 'probe/mbe': 1.5, 'steps': 3,
      }
      for name in METHODS
      for seed in range(2)
  ]
  memory_tables.compare(rows)
  tree = results.write(
      tmp_path / 'results.json', experiment='memory', claim='', command='',
      settings={}, rows=rows, baseline=None,
      tables=memory_tables.make_tables(rows), wall_seconds=1.0,
  )
  assert set(tree['tables']) == {
      *memory_methods.FAMILIES, 'causal_loss', 'stages', 'compression'
  }
  changes = tree['tables']['causal_loss']
  assert 'combined:1' in changes['methods']
  assert tree['tables']['stages']['methods'] == [
      f'frozen_ae:staged:{n}' for n in memory_methods.BUDGETS
  ]
  assert [column[0] for column in tree['tables']['needle']['columns']] == [
      'blank_copy/accuracy'
  ]
  assert set(memory.draw(tree)) == {
      'information', 'entropy', 'objectives', 'curriculum'
  }


def test_what_an_embedding_surely_holds():
  """Of four tokens out of eight, 12 bits; a probe that misses 1.5 of each 3."""
  language = markov.MarkovConfig(
      vocab_size=8, length=4, uniform=True, num_heldout=4
  )
  for cross_entropy, sure in ((1.5, 6.0), (0.0, 12.0), (3.5, 0.0)):
    found = memory_run._information(
        {'num_tokens': 4.0, 'cross_entropy': cross_entropy * math.log(2)},
        language,
    )
    assert found == {
        'text_bits': pytest.approx(12.0), 'sure_bits': pytest.approx(sure)
    }


def test_program(tmp_path):
  """A tiny autoencoder, its probe, and stages on its encoder; then no more."""
  args = (
      'experiments.memory', f'--workdir={tmp_path}', '--smoke',
      '--seeds=1', '--families=autoencoder,curriculum',
  )
  programs.run(*args)
  tree = json.loads((tmp_path / 'results.json').read_text())
  row, *stages = tree['rows']
  observations.check_results('memory', tree)
  assert row['method'] == 'ae:8' and row['steps'] == 3
  assert [(stage['method'], stage['seed']) for stage in stages] == [
      ('frozen_ae:blank:50', 1), ('frozen_ae:staged:100', 1)
  ]
  assert all('blank_copy/accuracy' in stage for stage in stages)
  assert row['probe/num_tokens'] == memory_methods.CHUNK_LENGTH
  assert (tmp_path / 'information.png').exists()
  made = (tmp_path / 'runs/ae:8_seed_1/row.json').stat().st_mtime
  programs.run(*args)
  assert (tmp_path / 'runs/ae:8_seed_1/row.json').stat().st_mtime == made
  done = programs.run(*args[:-1], '--families=memory', status=2)
  assert 'other settings (families)' in done.stderr

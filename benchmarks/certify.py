"""What certificates cost beside what they cannot do without, with targets.

  python benchmarks/certify.py --repeats=20
  python benchmarks/certify.py --words=english_words.txt.gz \
      --pages=tldr_all.jsonl.gz

Steps: training in a parameterisation beside the plain step of the same model on
the same batch; the floor is the share of a plain step that projecting there and
back would take at the speed of the model's own products. Evaluation: documents
read, scored and brought together, beside forward passes of the same batches,
which lie on the device, to one number each. Padding is the work of the forward
pass as well, so both ratios are given: of all tokens, and of the scored ones
alone to all of the forward pass. Ratios are medians over rounds with 95 %
bootstrap intervals.
"""

import dataclasses
import functools
import importlib.util
import math
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import projectors
import stepping
import timing
from absl import app, flags

from iblm_jax import bounds, config
from iblm_jax.bounds import options, range_code
from iblm_jax.certification import document_losses
from iblm_jax.data import documents as documents_lib
from iblm_jax.data.sources import pages, topics
from iblm_jax.data.sources import words as wordlist
from iblm_jax.models import decoder, flops
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import mesh as mesh_lib

_REPEATS = flags.DEFINE_integer('repeats', 15, 'Rounds.', lower_bound=1)
_PARTS = flags.DEFINE_multi_enum(
    'part', ['step', 'evaluation', 'coder'], ['step', 'evaluation', 'coder'],
    'What to time.',
)
_WIDTHS = flags.DEFINE_multi_integer('width', [64, 256], 'Of the models.')
_VARIANTS = flags.DEFINE_multi_enum(
    'variant', ['subspace', 'sublora'], ['subspace', 'sublora'], 'Of a step.'
)
_BATCHES = flags.DEFINE_multi_integer('batch', [8, 32, 128], 'Rows of a step.')
_TOKENS = flags.DEFINE_integer(
    'tokens', 262_144, 'About how many to evaluate.', lower_bound=1
)
_MAX_TOKENS = flags.DEFINE_integer(
    'max_tokens',
    options.CertificateConfig().max_tokens,
    'Of an evaluation batch.',
)
_WORDS = flags.DEFINE_string('words', None, 'A list of words, one a line.')
_PAGES = flags.DEFINE_string('pages', None, 'Pages, JSON lines.')

_STEP_TARGET, _EVALUATION_TARGET = 1.15, 0.9
_CODER_MS, _CODER_EXCESS = 50.0, 1e-3
_SYMBOLS, _LEVELS = 50_000, 15


def _run_config(variant: str | None, width: int, batch: int):
  """Of configs/certify_synthetic.py; the plain step for None."""
  path = pathlib.Path(__file__).parents[1] / 'configs' / 'certify_synthetic.py'
  spec = importlib.util.spec_from_file_location('certify_synthetic', path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  tree = module.get_config(variant or 'subspace').to_dict()
  del tree['certificate']
  tree['model'].update(width=width, num_heads=width // 32)
  tree['data']['batch_size'] = batch
  if variant is None:
    del tree['parameterisation']
  return config.from_dict(tree)


def _time_steps():
  print(
      '\nTraining steps of 64 tokens a row; target: at most'
      f' {_STEP_TARGET} plain steps'
  )
  print(
      f'{"width":>5} {"rows":>5} {"step":<9}{"least ms":>9}{"median":>8}'
      '   ratio to plain          floor  met'
  )
  for width in _WIDTHS.value:
    for batch in _BATCHES.value:
      steppers, flop, calls = {}, {}, max(1, 32 // batch)
      for variant in (None, *_VARIANTS.value):
        cfg = _run_config(variant, width, batch)
        program = program_lib.Program(cfg)
        length = cfg.data.topics.length
        name = variant or 'plain'
        flop[name] = batch * length * flops.training_flops_per_token(
            cfg.model, length
        )
        if variant:
          made = program.parameterisation.fixed['projector']
          flop[name] = 2 * projectors.kron_flop(made)
        with jax.set_mesh(program.mesh):
          rows = mesh_lib.put_batch(
              stepping.random_batch(batch, length, cfg.model.vocab_size),
              program.batch_sharding,
          )
          steppers[name] = stepping.Stepper(
              program.train_step,
              program.init(jax.random.key(0)),
              rows,
              steps_per_call=calls,
          )
      with jax.set_mesh(program.mesh):
        times = timing.interleaved(steppers, _REPEATS.value)
      for name, seconds in times.items():
        ratio, low, high = timing.median_ratio(seconds, times['plain'])
        floor = 1 + (flop[name] / flop['plain'] if name != 'plain' else 0)
        met = '' if name == 'plain' else _met(ratio <= _STEP_TARGET)
        print(
            f'{width:5} {batch:5} {name:<9}{1e3 * min(seconds) / calls:9.2f}'
            f'{1e3 * statistics.median(seconds) / calls:8.2f}'
            f'   {ratio:.3f} [{low:.3f}, {high:.3f}]   {floor:.3f}  {met}'
        )


def _met(is_met: bool) -> str:
  return 'yes' if is_met else 'NO'


def _documents() -> dict[str, documents_lib.Documents]:
  """Sources by name."""
  made: dict[str, documents_lib.Documents] = {
      'topics': topics.TopicDocuments(
          topics.TopicsConfig(num_train=1_000_000, num_heldout=1000, length=64)
      )
  }
  if _WORDS.value:
    made['words'] = wordlist.load_words(
        wordlist.WordsConfig(path=_WORDS.value, num_train=185_000, length=32)
    )
  if _PAGES.value:
    made['pages'] = pages.load_pages(
        pages.PagesConfig(
            path=_PAGES.value, num_train=6500, length=256, stride=128
        )
    )
  return made


def _forward(params, batch, *, cfg):
  return jnp.sum(
      decoder.apply(
          params,
          batch['tokens'],
          cfg,
          mask=batch['mask'],
          segment_ids=batch['segment_ids'],
          positions=batch['positions'],
      ).logits_BxLxV
  )


def _time_evaluation():
  print(
      '\nEvaluation of documents, targets scored a second; target: at least'
      f' {_EVALUATION_TARGET} of a bare forward pass'
  )
  print(
      f'{"data":<8}{"width":>5}{"scored":>9}{"of all":>8}{"1st s":>6}{"2nd":>6}'
      f'{"scored/s":>10}{"bare/s":>10}   ratio, all tokens        scored only'
      '  met'
  )
  for name, documents in _documents().items():
    for width in _WIDTHS.value:
      _evaluate(name, documents, width)


def _evaluate(name, documents, width):
  cfg = dataclasses.replace(
      _run_config(None, width, 128).model, vocab_size=documents.vocab_size
  )
  few = min(2000, documents.num_train)
  per_unit = documents.rows('train', np.arange(few)).lengths.sum() / few
  count = min(documents.num_train, math.ceil(_TOKENS.value / per_unit))
  units = np.arange(count)
  params = jax.jit(functools.partial(decoder.init, cfg=cfg))(jax.random.key(0))
  measure = functools.partial(
      document_losses.measure, params, cfg, documents, 'train',
      alphas=bounds.ALPHAS, top_k=(1, 10), max_tokens=_MAX_TOKENS.value,
  )
  scored, first = _first_call(measure, units)
  _, other = _first_call(measure, units[: 3 * count // 4])
  on_device = [
      jax.device_put(batch)
      for _, batch in documents_lib.evaluation_batches(
          documents, 'train', units, max_tokens=_MAX_TOKENS.value
      )
  ]
  total = sum(batch['tokens'].size for batch in on_device)
  forward = jax.jit(functools.partial(_forward, cfg=cfg))
  times = timing.interleaved(
      {
          'bare': lambda: [forward(params, batch) for batch in on_device],
          'measure': lambda: measure(units),
      },
      _REPEATS.value,
  )
  ratio, low, high = timing.median_ratio(times['bare'], times['measure'])
  print(
      f'{name:<8}{width:5}{scored:9,}{scored / total:8.1%}'
      f'{first:6.1f}{other:6.1f}{scored / min(times["measure"]):10,.0f}'
      f'{total / min(times["bare"]):10,.0f}'
      f'   {ratio:.3f} [{low:.3f}, {high:.3f}]   {ratio * scored / total:9.3f}'
      f'  {_met(ratio >= _EVALUATION_TARGET)}'
  )


def _first_call(measure, units):
  """Targets scored and seconds, what is still to be compiled included."""
  start = time.perf_counter()
  scored = measure(units).tokens
  return scored, time.perf_counter() - start


def _time_coder():
  probability = 0.6 ** np.abs(np.arange(_LEVELS) - _LEVELS // 2)
  symbols = np.random.default_rng(0).choice(
      _LEVELS, _SYMBOLS, p=probability / probability.sum()
  )
  code = bounds.encode(symbols, _LEVELS, 'table')
  decoded = bounds.decode(code, _SYMBOLS, _LEVELS, 'table')
  np.testing.assert_array_equal(decoded, symbols)
  entropy = bounds.ideal_bits(symbols, _LEVELS, 'table')
  times = timing.interleaved(
      {
          'encode': lambda: bounds.encode(symbols, _LEVELS, 'table'),
          'decode': lambda: bounds.decode(code, _SYMBOLS, _LEVELS, 'table'),
      },
      _REPEATS.value,
  )
  total = 1e3 * sum(min(seconds) for seconds in times.values())
  # The counts are as long for any symbols: what codes the symbols is the rest.
  payload = 8 * (len(code) - range_code.field_bytes(_SYMBOLS, _LEVELS))
  print(f'\nCoder, {_SYMBOLS:,} symbols of {_LEVELS}, scheme "table"')
  for name, seconds in times.items():
    print(
        f'{name}: {1e3 * min(seconds):.2f} ms at least,'
        f' {1e3 * statistics.median(seconds):.2f} in the middle'
    )
  print(
      f'both: {total:.2f} ms; target < {_CODER_MS:g}:'
      f' {_met(total < _CODER_MS)}'
  )
  excess = payload / entropy - 1
  print(
      f'{payload:,} bits of payload for an entropy of {entropy:,.0f}:'
      f' {excess:+.4%}; target <= {_CODER_EXCESS:.1%}:'
      f' {_met(excess <= _CODER_EXCESS)}'
  )
  bits = 8 * len(code)
  print(f'{bits:,} bits with the counts: {bits / entropy - 1:+.4%}')


def main(argv):
  """Prints the tables."""
  del argv
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  parts = {
      'step': _time_steps,
      'evaluation': _time_evaluation,
      'coder': _time_coder,
  }
  for part in _PARTS.value:
    parts[part]()


if __name__ == '__main__':
  app.run(main)

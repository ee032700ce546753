"""What memories save: encoding chunks at once, and decoding with few of them.

Four tables. Encoding: all chunks of a row at once against a Python loop over
them. Decoding: milliseconds a token and bytes held, of a memory model and of a
decoder of the whole row, both with a cache, at the shape of --chunks and
--length. Chunks: training, reading and decoding with more and more of them.
Arithmetic: what the compiler counts, beside the formulas. From the root of the
project:

  python benchmarks/memory.py
  python benchmarks/memory.py --tables=decoding --repeats=9
  python benchmarks/memory.py --smoke
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import timing

# Run as a program, the folder on the path is this file's.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from iblm_jax.models import config, decoder, flops, memory
from iblm_jax.models.generation import (
    decoding,
    incremental,
    kv_cache,
    memory_decoding,
)
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import cost as memory_cost
from iblm_jax.models.memory import layout
from iblm_jax.objectives import causal  # noqa: E402

TABLES = ('encoding', 'decoding', 'chunks', 'arithmetic')


def model(args, chunks, length, width=None, **kwargs):
  """A memory model whose encoder is as its decoder."""
  width = width or args.width
  part = config.llama(
      args.vocab,
      num_layers=args.layers,
      width=width,
      num_heads=max(1, width // 64),
      tie_embeddings=True,
      scan_layers=False,
      **kwargs,
  )
  return memory_config.MemoryConfig(part, part, chunks, length)


def compiled(function, *arguments, donate=()):
  """The program of a function, and the seconds that it took to make."""
  jitted = jax.jit(function, donate_argnums=donate)
  lowered = jitted.lower(*arguments)
  start = time.perf_counter()
  program = lowered.compile()
  return program, time.perf_counter() - start


def least(programs, repeats):
  """Least milliseconds a call of each, in turn in one process."""
  seconds = timing.interleaved(programs, repeats)
  return {name: 1e3 * min(times) for name, times in seconds.items()}


# --- Encoding.


def at_once(params, tokens_BxT, cfg):
  """Memories of all chunks."""
  return layout.encode_chunks(params, tokens_BxT, cfg).vector_BxMxD


def in_a_loop(params, tokens_BxT, cfg):
  """The same, one chunk after the other."""
  chunks = jnp.split(tokens_BxT, cfg.num_chunks, axis=1)
  return jnp.concatenate([at_once(params, c, cfg) for c in chunks], axis=1)


def encoding(args):
  print(f'Encoding {args.encoded} chunks at once and in a Python loop,'
        f' {args.layers} layers, 1 row; seconds to compile, milliseconds to'
        ' run')
  print(f'{"width":>5} {"length":>6} {"":18} {"compile":>8} {"loop":>8}'
        f' {"ratio":>6} {"run":>8} {"loop":>8} {"ratio":>6}')
  for width, length in args.encoder_shapes:
    cfg = model(args, args.encoded, length, width)
    params = memory.init(jax.random.key(0), cfg)
    tokens_BxT = jnp.zeros([1, cfg.length], jnp.int32)
    for name in ('forward', 'with the gradient'):
      took, programs = {}, {}
      for way in (at_once, in_a_loop):
        f = functools.partial(way, cfg=cfg)
        if name != 'forward':
          f = jax.grad(lambda p, t, f=f: jnp.sum(jnp.square(f(p, t))))
        program, took[way] = compiled(f, params, tokens_BxT)
        programs[way] = functools.partial(program, params, tokens_BxT)
      ms = least(programs, args.repeats)
      print(f'{width:5} {length:6} {name:18}'
            f' {took[at_once]:8.1f} {took[in_a_loop]:8.1f}'
            f' {took[in_a_loop] / took[at_once]:6.1f}'
            f' {ms[at_once]:8.1f} {ms[in_a_loop]:8.1f}'
            f' {ms[in_a_loop] / ms[at_once]:6.2f}')


# --- Decoding.


class Tokens:
  """Decodes tokens with what is held given away, always at the same place.

  Attributes:
    cache_bytes: bytes of what is held.
  """

  def __init__(self, step, params, state, place, num_tokens):

    def run(params, state):
      apart = functools.partial(step, layers_apart(params))

      def advance(carry, _):
        logits_BxV, state = apart(*carry)
        token_B = jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
        return (token_B, state), None

      token_B = jnp.zeros(jax.tree.leaves(state)[0].shape[0], jnp.int32)
      carry, _ = jax.lax.scan(
          advance, (token_B, place(state)), None, length=num_tokens
      )
      return carry

    self._program, _ = compiled(run, params, state, donate=1)
    self._params, self._state = params, state
    self.cache_bytes = sum(
        leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.ndim
    )

  def __call__(self):
    """Decodes the tokens; returns the last."""
    token_B, self._state = self._program(self._params, self._state)
    return token_B


def layers_apart(params):
  """Of a decoder or of a memory model."""
  if 'decoder' in params:
    return memory_decoding.layers_apart(params)
  return kv_cache.layers_apart(params)


def filled(state):
  """Without the zeros that memory starts with."""
  return jax.tree.map(
      lambda a: a + jnp.asarray(0.5, a.dtype) if a.ndim > 2 else a, state
  )


def of_whole_row(cfg, params, args):
  """The last tokens of rows whose every token is in the cache."""
  part, length = cfg.decoder, cfg.length

  def step(params, token_B, cache):
    logits, cache = decoding.extend(params, token_B[:, None], cache, part)
    return logits[:, 0], cache

  place = lambda cache: cache._replace(
      length=jnp.int32(length - args.num_tokens)
  )
  cache = filled(decoding.init_cache(part, args.batch, length))
  return Tokens(step, params['decoder'], cache, place, args.num_tokens)


def of_memories(cfg, params, args):
  """The last tokens of rows whose past chunks are memories."""
  count = cfg.chunk_length - args.num_tokens

  def place(state):
    return state._replace(
        chunk=jnp.int32(cfg.num_chunks - 1),
        count=jnp.int32(count),
        cache=state.cache._replace(length=jnp.int32(cfg.num_chunks + count)),
    )

  step = functools.partial(memory_decoding.step, cfg=cfg)
  start = jax.jit(lambda params: memory_decoding.start(params, cfg, args.batch))
  return Tokens(step, params, filled(start(params)), place, args.num_tokens)


def of_chunk_ends(cfg, params, args):
  """What the last token of a chunk costs: its memory and the next window."""
  start = jax.jit(lambda params: memory_decoding.start(params, cfg, args.batch))
  state, token_B = start(params), jnp.zeros([args.batch], jnp.int32)
  state = state._replace(count=jnp.int32(cfg.chunk_length - 1))
  close = functools.partial(memory_decoding.close, cfg=cfg)
  program, _ = compiled(close, params, token_B, state)
  return lambda: program(params, token_B, state)[0]


def decoding_table(args):
  cfg = model(args, args.chunks, args.length)
  params = memory.init(jax.random.key(0), cfg)
  programs = {
      'whole row': of_whole_row(cfg, params, args),
      'memories': of_memories(cfg, params, args),
  }
  ends = of_chunk_ends(cfg, params, args)
  held = {name: program.cache_bytes for name, program in programs.items()}
  ms = least({**programs, 'ends': ends}, args.repeats)
  whole, few = (ms[name] / args.num_tokens for name in programs)
  spread = few + (ms['ends'] - few) / args.length
  print(f'Decoding the last tokens of {args.batch} rows of {args.chunks} x'
        f' {args.length} tokens, width {args.width}, {args.layers} layers;'
        ' milliseconds a token, MB held')
  print(f'{"":34} {"ms":>8} {"faster":>7} {"MB":>8} {"share":>7}')
  for name, time_, size in (
      ('whole row in the cache', whole, held['whole row']),
      ('memories, within a chunk', few, held['memories']),
      ('memories, chunk ends among them', spread, held['memories']),
  ):
    print(f'{name:34} {time_:8.1f} {whole / time_:7.2f} {size / 1e6:8.1f}'
          f' {size / held["whole row"]:7.1%}')
  print(f'the end of a chunk: {ms["ends"]:.1f} ms')


# --- More and more chunks.


def causal_gradient(apply):
  """Gradient of the next tokens' loss, of one of the two models."""

  def loss(params, tokens_BxT):
    logits_BxTxV = apply(params, tokens_BxT).logits_BxLxV
    return jnp.mean(causal.token_nll(logits_BxTxV, tokens_BxT))

  return jax.grad(loss)


def of_rows(cfg, params):
  """Training and reading of one row: by name, programs of both models."""
  looped = _looped(cfg)  # compiles sooner
  part, past = looped.decoder, (cfg.num_chunks - 1) * cfg.chunk_length
  tokens_1xT = jnp.zeros([1, cfg.length], jnp.int32)
  held = jnp.ones([1, cfg.num_chunks - 1, part.width])
  last = jnp.int32(cfg.num_chunks - 1)
  functions = {
      'train': causal_gradient(lambda p, t: memory.apply(p, t, looped)),
      'train whole': causal_gradient(
          lambda p, t: decoder.apply(p['decoder'], t, part)
      ),
      'prefill': lambda p, t: memory_decoding.read(p, t, looped),
      'cached': lambda p, t: incremental.enter(
          p, held, last, t[:, past:], looped
      ),
      'prefill whole': lambda p, t: decoding.prefill(
          p['decoder'], t, part, cfg.length
      ),
  }
  return {
      name: functools.partial(
          compiled(function, params, tokens_1xT)[0], params, tokens_1xT
      )
      for name, function in functions.items()
  }


def chunks_table(args):
  print(f'Rows of C x {args.short} tokens, width {args.width}, {args.layers}'
        ' layers: milliseconds with memories, over those of the whole row, and'
        ' the same by formula')
  print('train: 1 row, forward and backward; prefill: 1 row up to its last'
        ' token, the past encoded; cached: its memories there already; decode:'
        f' a token of {args.batch} rows')
  parts = ('train', 'prefill', 'cached', 'decode')
  print(f'{"C":>3}' + ''.join(f' {part:>9} {"ratio":>6} {"formula":>7}'
                              for part in parts) + f' {"cache":>6}')
  crossing = None
  for chunks in args.counts:
    cfg = model(args, chunks, args.short)
    params = memory.init(jax.random.key(0), cfg)
    ms = least(of_rows(cfg, params), args.repeats)
    ms['cached whole'] = ms['prefill whole']
    token = least(
        {
            'decode': of_memories(cfg, params, args),
            'decode whole': of_whole_row(cfg, params, args),
        },
        args.repeats,
    )
    ms |= {name: time_ / args.num_tokens for name, time_ in token.items()}
    formula = {
        'train': memory_cost.forward_flops(cfg, 'train'),
        'prefill': memory_cost.forward_flops(cfg, 'prefill'),
        'cached': memory_cost.forward_flops(cfg, 'prefill', cached=True),
        'decode': memory_cost.forward_flops(cfg, 'decode', cached=True),
    }
    ratio = {part: ms[part] / ms[f'{part} whole'] for part in parts}
    if crossing is None and ratio['prefill'] < 1:
      crossing = chunks
    print(f'{chunks:3}' + ''.join(
        f' {ms[part]:9.1f} {ratio[part]:6.2f} {formula[part].ratio:7.2f}'
        for part in parts
    ) + f' {cfg.window / cfg.length:6.1%}')
  by_formula = next(
      (c for c in range(2, 1000) if memory_cost.forward_flops(
          model(args, c, args.short), 'prefill').ratio < 1), None
  )
  print(f'prefill is cheaper from C = {by_formula} on by the formula, first'
        f' measured to be at C = {crossing}')


def _looped(cfg):
  part = dataclasses.replace(cfg.decoder, scan_layers=True)
  return dataclasses.replace(cfg, encoder=part, decoder=part)


# --- Arithmetic.


def arithmetic(args):
  """Unrolled layers: the compiler counts the body of a loop once."""
  cfg = model(args, args.counted[0], args.counted[1])
  part, length = cfg.decoder, cfg.length
  shapes = jax.eval_shape(lambda key: memory.init(key, cfg), jax.random.key(0))
  whole = jax.eval_shape(lambda: decoding.init_cache(part, 1, length))
  state = jax.eval_shape(lambda p: memory_decoding.start(p, cfg, 1), shapes)
  row, token = (
      jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ([1, length], [1])
  )
  costs = {
      mode: memory_cost.forward_flops(cfg, mode, cached=mode == 'decode')
      for mode in ('prefill', 'decode')
  }
  head = flops.forward_flops_per_token(part, 1) - flops.blocks_flops_per_token(
      part, 1
  )
  memories_of = lambda cost: cost.encoder + cost.decoder
  cases = [
      ('prefill, whole row', costs['prefill'].full_context,
       lambda p, t: decoding.prefill(p['decoder'], t, part, length),
       (shapes, row)),
      ('prefill, memories', memories_of(costs['prefill']),
       lambda p, t: memory_decoding.read(p, t, cfg), (shapes, row)),
      ('a token, whole row', costs['decode'].full_context,
       lambda p, t, s: decoding.extend(p['decoder'], t[:, None], s, part),
       (shapes, token, whole)),
      ('a token, memories', memories_of(costs['decode']),
       lambda p, t, s: incremental.feed(p, t, s, cfg),
       (shapes, token, state)),
      ('forward, whole row',
       costs['prefill'].full_context + head * (length - 1),
       lambda p, t: decoder.apply(p['decoder'], t, part).logits_BxLxV,
       (shapes, row)),
  ]
  print(f'MFLOP of one row of {cfg.num_chunks} x {cfg.chunk_length} tokens,'
        f' width {args.width}, {args.layers} layers, head included')
  print(f'{"":22} {"formula":>10} {"compiler":>10} {"ratio":>6}')
  for name, blocks, function, arguments in cases:
    program, _ = compiled(function, *arguments)
    counted = (program.cost_analysis() or {})['flops']
    total = blocks + head
    print(f'{name:22} {total / 1e6:10.1f} {counted / 1e6:10.1f}'
          f' {counted / total:6.2f}')


def _pairs(text):
  return [tuple(map(int, item.split('x'))) for item in text.split(',')]


def _arguments(argv):
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  add = parser.add_argument
  add('--tables', type=lambda text: text.split(','), default=list(TABLES))
  add('--repeats', type=int, default=5)
  add('--layers', type=int, default=4)
  add('--vocab', type=int, default=260, help='bytes, marks and a blank')
  add('--width', type=int, default=512, help='of decoding')
  add('--batch', type=int, default=8, help='rows decoded')
  add('--chunks', type=int, default=16, help='C of decoding')
  add('--length', type=int, default=256, help='L of decoding')
  add('--num_tokens', type=int, default=16, help='decoded in one call')
  add('--encoded', type=int, default=16, help='C of encoding')
  add('--encoder_shapes', type=_pairs, default='128x64,256x128',
      help='widths x lengths of encoding')
  add('--counts', type=lambda text: [int(c) for c in text.split(',')],
      default='2,4,8,16,32', help='Cs of the third table')
  add('--short', type=int, default=64, help='L of the third table')
  add('--counted', type=lambda text: _pairs(text)[0], default='4x256',
      help='C x L of the arithmetic')
  add('--smoke', action='store_true', help='shapes that say nothing')
  args = parser.parse_args(argv)
  unknown = set(args.tables) - set(TABLES)
  if unknown:
    parser.error(f'--tables must name some of {TABLES}, got {unknown}.')
  if args.smoke:
    small = dict(
        repeats=1, layers=1, width=16, batch=2, chunks=3, length=4,
        num_tokens=2, encoded=3, encoder_shapes=[(16, 4)], counts=[2],
        short=4, counted=(3, 4),
    )
    vars(args).update(small)
  return args


def main(argv=None):
  args = _arguments(argv)
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}; times are the'
        f' least of {args.repeats}')
  tables = dict(
      encoding=encoding,
      decoding=decoding_table,
      chunks=chunks_table,
      arithmetic=arithmetic,
  )
  for name in args.tables:
    print()
    tables[name](args)


if __name__ == '__main__':
  # Compiling is timed, too: nothing may come from an earlier run.
  jax.config.update('jax_enable_compilation_cache', False)
  main()

"""Methods of the experiment on memory: runs, their beginnings, probes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from iblm_jax.experiments._harness import variants

LENGTH = 16  # of what autoencoders and probes of causal models reconstruct
CHUNKS, CHUNK_LENGTH = 4, 8
VOCAB, TOPICS = 32, 4

_TRAIN = {
    'objective.measure_entropy': False,
    'objective.weight': 1.0,
    'train.num_steps': 1000,
    'train.log_every': 100,
    'train.eval_every': 0,
}
_VIEWS = ('causal', 'copy', 'blank_copy')
BASES: dict[str, dict[str, Any]] = {
    'autoencoder': variants.base(
        'autoencoder', 'mixer', {**_TRAIN, 'train.num_steps': 800}
    ),
    'decoder': variants.base('memory', 'full_context', {
        **_TRAIN, 'task': {'kind': 'causal'}
    }),
    'memory': variants.base('memory', 'causal', {
        **_TRAIN, 'task': {'kind': 'causal', 'also_measure': _VIEWS}
    }),
}
_STACK = BASES['decoder']['model']
_MIXER = BASES['autoencoder']['model']['decoder']
_ENCODER = BASES['memory']['model']['encoder']
# It takes more to read a chunk out of one vector than to write it.
_READER = {**_STACK, 'num_heads': 8, 'mlp_width': 512}


class Method(NamedTuple):
  """A run, and what is asked of it afterwards.

  Attributes:
    base: Key of `BASES`.
    after: Method whose parameters it starts from; None begins afresh.
    parts: Which of these it takes, see `StartConfig`.
    frozen: Patterns of paths that do not change.
    probe: Whether the embeddings of its encoder are probed.
    of_bytes: Whether it reads real text; the data are filled in where there
      are some.
  """

  base: str
  changes: Mapping[str, Any] = {}
  after: str | None = None
  parts: Mapping[str, str] = {}
  frozen: tuple[str, ...] = ()
  probe: bool = False
  of_bytes: bool = False


def _steps(n: int) -> dict[str, Any]:
  return {'train.num_steps': n}


def _widths(n: int) -> dict[str, Any]:
  return {'model.width': n, 'model.mlp_width': 4 * n}


def _length(n: int) -> dict[str, Any]:
  return {
      'model.length': n, 'data.markov.length': n,
      'model.encoder.mixer.length': n, 'model.decoder.mixer.length': n,
      'data.batch_size': 64 * LENGTH // n,  # as many tokens an update
  }


def _combined(weight: float, copying: str = 'blank_copy') -> dict[str, Any]:
  return {
      'task.kind': 'combined',
      'task.copying': copying,
      'task.copy_weight': weight,
      'train.accumulation': 2,  # the same, but faster
  }


# With entropy in the loss, of the encoder's layers.
_GAPT = {
    'objective.method': 'gapt',
    'objective.weight': 0.1,
    'gate': {
        'patience_main': 60, 'patience_aux': 30, 'spike': 0.1, 'ema': 0.98,
        'reset_aux_best': True,
    },
}
_MBE = {'objective.method': 'mbe', 'objective.weight': 0.1}
# Updates of the decoder in all, whatever the stages.
BUDGETS = (100, 200, 400)
LAST = BUDGETS[-1]
_NEEDLE = {
    'data': {
        'kind': 'needle',
        'batch_size': 32,
        'needle': {
            'vocab_size': VOCAB, 'num_chunks': CHUNKS,
            'chunk_length': CHUNK_LENGTH,
        },
    },
    'task.also_measure': ('blank_copy',),
    **_steps(1500),
}


def _stage(task: str, n: int, after: str, goes_on: bool = False) -> Method:
  """A stage of n updates on a frozen encoder.

  It takes the encoder alone of the run before, or, where it goes on with an
  earlier stage, everything.
  """
  changes = {
      'task.kind': task,
      'optimizer.schedule.peak': 5e-3 if goes_on else 1e-2,
      'optimizer.schedule.warmup_steps': 20,
      **_steps(n),
  }
  if task == 'combined':  # next tokens are all new
    changes |= _combined(1.0) | {'optimizer.schedule.peak': 1e-2}
  parts = {'': ''} if goes_on else {'encoder': 'encoder'}
  return Method('memory', changes, after, parts, ('^encoder/',))


# Slower to learn than mixers.
_ATTENTION = {
    'model.encoder': _ENCODER,
    'model.decoder': _STACK,
    'model.injection': 'unroll',
    'optimizer.schedule.peak': 1e-2,
}

_UNTRAINED = _steps(1) | {
    'optimizer.schedule.peak': 1e-9, 'optimizer.schedule.warmup_steps': 0
}
# The stack of the autoencoders below.
_CAUSAL_MIXER = {
    'model': {**_MIXER, 'mixer': {
        'length': CHUNKS * CHUNK_LENGTH, 'num_heads': 4
    }},
    'optimizer.schedule.peak': 4e-3,
}

# (a) causal language models, by training, by size and by kind of mixing
_CAUSAL = {
    'untrained': Method('decoder', _UNTRAINED, probe=True),
    'causal:1x': Method('decoder', _steps(400), probe=True),
    'causal:4x': Method('decoder', _steps(1600), probe=True),
    'causal:w32': Method('decoder', _steps(800) | _widths(32), probe=True),
    'causal:w128': Method(
        'decoder',
        _steps(800) | _widths(128) | {'optimizer.schedule.peak': 4e-3},
        probe=True,
    ),
    'causal:mixer': Method('decoder', _CAUSAL_MIXER | _steps(800), probe=True),
    'untrained:mixer': Method(
        'decoder', _CAUSAL_MIXER | _UNTRAINED, probe=True
    ),
}
# (b) autoencoders, by length, bottleneck and kind of mixing
_AUTOENCODERS = {
    'ae': Method('autoencoder', probe=True),
    'ae:L32': Method('autoencoder', _length(32)),
    'ae:r2': Method('autoencoder', {'model.compression': 2}),
    'ae:r4': Method('autoencoder', {'model.compression': 4}),
    'ae:uniform': Method('autoencoder', {'data.markov.uniform': True}),
    'ae:attention': Method(
        'autoencoder', _ATTENTION | _steps(1500), probe=True
    ),
    # What the memory models below can take for their encoder.
    'ae:8': Method('autoencoder', _ATTENTION | _steps(600) | {
        'model.length': CHUNK_LENGTH, 'data.markov.length': CHUNK_LENGTH
    }, probe=True),
}
# (c), (d) memory models, by objective
_MEMORY = {
    'memory:untrained': Method('memory', _UNTRAINED, probe=True),
    'memory:causal': Method('memory', probe=True),
    'memory:none': Method('memory', {'model.kind': 'none'}),
    'memory:recurrent': Method(
        'memory', {'model.kind': 'recurrent', 'model.decoder': _READER}
    ),
    'full_context': Method('decoder', {
        f'model.{name}': _READER[name] for name in ('num_heads', 'mlp_width')
    }),
    # As many rows as the combined runs read.
    'memory:causal_2x': Method('memory', _steps(2000)),
    # Of these, an encoder that could already reconstruct chunks, and goes on
    # learning.
    'memory:causal_ae': Method(
        'memory', {}, 'ae:8', {'encoder': 'encoder'}, probe=True
    ),
    'combined:0.25': Method('memory', _combined(0.25), probe=True),
    'combined:0.5': Method('memory', _combined(0.5), probe=True),
    'combined:1': Method('memory', _combined(1.0), probe=True),
    'combined:ae': Method(
        'memory', _combined(0.25), 'ae:8', {'encoder': 'encoder'}, probe=True
    ),
    # Copying with the tokens in sight.
    'combined:tokens': Method('memory', _combined(1.0, 'copy'), probe=True),
}
# (e) copying with tokens on a frozen encoder: at once, in two stages of the
# same, or from blanks first
_CURRICULUM = {
    **{f'frozen_ae:blank:{n}': _stage('blank_copy', n, 'ae:8')
       for n in (BUDGETS[0] // 2, *BUDGETS)},
    **{f'frozen_ae:direct:{n}': _stage('copy', n, 'ae:8')
       for n in (BUDGETS[0] // 2, *BUDGETS)},
    **{f'frozen_ae:twice:{n}': _stage(
        'copy', n // 2, f'frozen_ae:direct:{n // 2}', goes_on=True
    ) for n in BUDGETS},
    **{f'frozen_ae:staged:{n}': _stage(
        'copy', n // 2, f'frozen_ae:blank:{n // 2}', goes_on=True
    ) for n in BUDGETS},
    'frozen_ae:combined': _stage(
        'combined', 1000, f'frozen_ae:staged:{LAST}', goes_on=True
    ),
    **{f'frozen_causal:blank:{n}': _stage('blank_copy', n, 'memory:causal')
       for n in (LAST // 2, LAST)},
    f'frozen_causal:staged:{LAST}': _stage(
        'copy', LAST // 2, f'frozen_causal:blank:{LAST // 2}', goes_on=True
    ),
    'no_memory:copy': Method(
        'memory',
        {
            'model.kind': 'none', 'task.kind': 'copy',
            'optimizer.schedule.warmup_steps': 20, **_steps(LAST),
        },
    ),
}
# (g) what compressing representations does to memory
_COMPRESSED = {
    'combined:gapt': Method('memory', _combined(1.0) | _GAPT, probe=True),
    'combined:mbe': Method('memory', _combined(1.0) | _MBE, probe=True),
}
# (h) arbitrary access
_NEEDLES = {
    'needle:full_context': Method('decoder', _NEEDLE | {
        f'model.{name}': _READER[name] for name in ('num_heads', 'mlp_width')
    }),
    'needle:causal': Method('memory', _NEEDLE),
    'needle:combined': Method('memory', _NEEDLE | _combined(1.0)),
}
_BYTES = {
    name: method._replace(of_bytes=True)
    for name, method in {
        'bytes:ae': Method('autoencoder', probe=True),
        'bytes:untrained': Method('decoder', _UNTRAINED, probe=True),
        'bytes:causal': Method('decoder', _steps(800), probe=True),
        'bytes:none': Method('memory', {'model.kind': 'none'}),
        'bytes:memory': Method('memory', probe=True),
        'bytes:combined': Method('memory', _combined(1.0), probe=True),
    }.items()
}

FAMILIES: dict[str, dict[str, Method]] = {
    'causal': _CAUSAL,
    'autoencoder': _AUTOENCODERS,
    'memory': _MEMORY,
    'curriculum': _CURRICULUM,
    'compressed': _COMPRESSED,
    'needle': _NEEDLES,
    'bytes': _BYTES,
}

# Enough to see every part of the program at work.
_SMOKE = (
    'ae:8', 'combined:1', 'frozen_ae:blank:50', 'frozen_ae:staged:100'
)
SMOKE_TRAIN = {
    'train.num_steps': 3,
    'train.log_every': 2,
    'train.checkpoint_every': 2,
    'optimizer.schedule.warmup_steps': 1,
    'data.batch_size': 8,
}


def methods(names: tuple[str, ...], smoke: bool = False) -> dict[str, Method]:
  """The methods of some families, by name, in order; for `smoke` a few.

  Raises:
    ValueError: For an unknown family, or one without a method for `smoke`.
  """
  strangers = sorted(set(names) - set(FAMILIES))
  if strangers or not names:
    raise ValueError(
        f'families must name some of {tuple(FAMILIES)}, got {names}.'
    )
  found = {
      name: method
      for family, members in FAMILIES.items()
      if family in names
      for name, method in members.items()
      if not smoke or name in _SMOKE
  }
  if not found:
    raise ValueError(
        f'families {names} have nothing for smoke, whose methods are {_SMOKE}.'
    )
  return found


def seeds(number: int) -> range:
  """Those of the runs: rates, updates and weights were chosen on seed 0."""
  return range(1, 1 + number)


def tree(method: Method, seed: int, text: str | None, smoke: bool):
  """The config of a run, as `variants.make_config` and JSON take it.

  The seed is of everything: language, parameters, order. `text` is the file of
  methods that read bytes.
  """
  base = variants.change(BASES[method.base], method.changes)
  data = base['data']
  if data['kind'] == 'markov':
    data['markov']['seed'] = seed
  stacks = ['model'] if method.base == 'decoder' else [
      'model.encoder', 'model.decoder'
  ]
  model = base['model']
  parts = [model.get('encoder', model), model.get('decoder', model)]
  num_heads = 1 if any('mixer' in part for part in parts) else 2
  changes: dict[str, Any] = {}
  if text is not None:
    length = data['markov']['length']
    base['data'] = {
        'kind': 'text',
        'batch_size': data['batch_size'],
        'text': {
            'paths': (text,), 'text_field': 'text', 'holdout': 0.1,
            'seq_len': length, 'eval_rows': 512,
        },
    }
    changes |= {f'{stack}.vocab_size': 260 for stack in stacks}
  if smoke:
    changes |= SMOKE_TRAIN
    for stack in stacks:
      changes |= {
          f'{stack}.width': 16, f'{stack}.mlp_width': 32,
          f'{stack}.num_heads': num_heads,
          f'{stack}.num_layers': 1,
      }
  return variants.change(base, changes)

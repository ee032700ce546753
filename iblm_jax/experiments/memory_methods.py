"""Methods of the experiment on memory: runs, their beginnings, probes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from iblm_jax.experiments import variants

CHUNKS, LENGTH = 4, 16
VOCAB = 64

_STACK: dict[str, Any] = {
    'vocab_size': VOCAB + 1,  # the last token is the blank
    'num_layers': 2,
    'width': 64,
    'num_heads': 4,
    'norm': 'rms',
    'positions': 'rotary',
    'activation': 'swiglu',
    'mlp_width': 256,
    'document_mask': False,
    'scan_layers': False,
}
_MIXER = {
    'norm': 'layer',
    'positions': 'none',
    'activation': 'gelu',
    'biases': True,
    'num_heads': 1,
}
_ENCODER = {**_STACK, 'tie_embeddings': True}
_TRAIN: dict[str, Any] = {
    'objective': {
        'method': 'ce', 'measure_entropy': False, 'skip_first': 0,
        'skip_last': 0,
    },
    'optimizer': {
        'name': 'adamw',
        'weight_decay': 0.0,
        'clip_norm': 1.0,
        'schedule': {'name': 'cosine', 'peak': 1e-2, 'warmup_steps': 100},
    },
    'train': {
        'num_steps': 1500, 'log_every': 100, 'eval_every': 0,
        'checkpoint_every': 500,
    },
}
_VIEWS = ('causal', 'copy', 'blank_copy')


def _markov(length: int) -> dict[str, Any]:
  return {
      'kind': 'markov',
      'batch_size': 64,
      'markov': {'vocab_size': VOCAB, 'length': length},
  }


BASES: dict[str, dict[str, Any]] = {
    'autoencoder': {
        'model': {
            'family': 'autoencoder', 'encoder': _ENCODER, 'decoder': _STACK,
            'length': LENGTH,
        },
        'task': {'kind': 'regeneration'},
        'data': _markov(LENGTH),
        **_TRAIN,
    },
    'decoder': {
        'model': _STACK,
        'task': {'kind': 'causal'},
        'data': _markov(CHUNKS * LENGTH),
        **_TRAIN,
    },
    'memory': {
        'model': {
            'family': 'memory', 'encoder': _ENCODER,
            # Of places in a window: blanks are told apart by nothing else.
            'decoder': {
                **_STACK, 'positions': 'learned',
                'max_length': CHUNKS + LENGTH,
            },
            'num_chunks': CHUNKS, 'chunk_length': LENGTH, 'layout': 'recent',
        },
        'task': {'kind': 'causal', 'also_measure': _VIEWS},
        'data': {**_markov(CHUNKS * LENGTH), 'batch_size': 32},
        **_TRAIN,
    },
}


class Method(NamedTuple):
  """A run, and what is asked of it afterwards.

  Attributes:
    base: key of `BASES`.
    changes: of the base, by dotted path.
    after: method whose parameters it starts from; None begins afresh.
    parts: which of these it takes, see `StartConfig`.
    frozen: patterns of paths that do not change.
    probe: whether the embeddings of its encoder are probed.
  """

  base: str
  changes: Mapping[str, Any] = {}
  after: str | None = None
  parts: Mapping[str, str] = {}
  frozen: tuple[str, ...] = ()
  probe: bool = False


def _steps(n: int) -> dict[str, Any]:
  return {'train.num_steps': n}


def _widths(n: int) -> dict[str, Any]:
  return {'model.width': n, 'model.mlp_width': 4 * n}


def _both(**changes: Any) -> dict[str, Any]:
  """Changes of encoder and decoder alike."""
  return {
      f'model.{part}.{name}': value
      for part in ('encoder', 'decoder')
      for name, value in changes.items()
  }


def _length(n: int) -> dict[str, Any]:
  return {'model.length': n, 'data.markov.length': n}


def _combined(weight: float) -> dict[str, Any]:
  return {
      'task.kind': 'combined',
      'task.copying': 'blank_copy',
      'task.copy_weight': weight,
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
_FROM_ENCODER = {'parts': {'encoder': 'encoder'}, 'frozen': ('^encoder/',)}
_GOES_ON = {'parts': {'': ''}, 'frozen': ('^encoder/',)}
_STAGE = 750  # updates of a stage of the curriculum
_NEEDLE = {
    'data': {
        'kind': 'needle',
        'batch_size': 64,
        'needle': {
            'vocab_size': VOCAB, 'num_chunks': CHUNKS, 'chunk_length': LENGTH
        },
    },
    'task.also_measure': ('blank_copy',),
}


def _stage(task: str, after: str, n: int = _STAGE, **rest: Any) -> Method:
  """A stage of training on a frozen encoder."""
  return Method(
      'memory',
      {'task.kind': task, 'optimizer.schedule.peak': 3e-3, **_steps(n)},
      after=after,
      **rest,
  )


# (a) causal language models, by training and by size
_CAUSAL = {
    'untrained': Method('decoder', _steps(1) | {
        'optimizer.schedule.peak': 1e-9, 'optimizer.schedule.warmup_steps': 0
    }, probe=True),
    'causal:1x': Method('decoder', _steps(500), probe=True),
    'causal:2x': Method('decoder', _steps(1000), probe=True),
    'causal:4x': Method('decoder', _steps(2000), probe=True),
    'causal:w32': Method('decoder', _steps(1000) | _widths(32), probe=True),
    'causal:w128': Method('decoder', _steps(1000) | _widths(128), probe=True),
}
# (b) autoencoders, by length and bottleneck
_AUTOENCODERS = {
    'ae': Method('autoencoder', _steps(2000), probe=True),
    'ae:8': Method('autoencoder', _length(8) | _steps(1000)),
    'ae:32': Method('autoencoder', _length(32)),
    'ae:r2': Method('autoencoder', {'model.compression': 2}),
    'ae:r4': Method('autoencoder', {'model.compression': 4}),
    'ae:mixer': Method(
        'autoencoder',
        {
            **_both(**_MIXER),
            **_both(width=128, mlp_width=256),
            **_both(mixer={'length': LENGTH, 'num_heads': 4}),
            'model.injection': 'repeat',
            'optimizer.schedule.peak': 3e-3,
        },
        probe=True,
    ),
    'ae:uniform': Method('autoencoder', {'data.markov.uniform': True}),
}
# (c), (d) memory models, by objective
_MEMORY = {
    'memory:causal': Method('memory', probe=True),
    'memory:none': Method('memory', {'model.kind': 'none'}),
    'memory:recurrent': Method(
        'memory',
        {'model.kind': 'recurrent', 'model.decoder.positions': 'rotary'},
    ),
    'full_context': Method('decoder', {}),
    # As many tokens as the combined runs read.
    'memory:causal_2x': Method('memory', _steps(3000)),
    'combined:0.25': Method('memory', _combined(0.25), probe=True),
    'combined:0.5': Method('memory', _combined(0.5), probe=True),
    'combined:1': Method('memory', _combined(1.0), probe=True),
}
# (e) the curriculum, all with as many updates of the decoder
_CURRICULUM = {
    'frozen_ae:direct': _stage('copy', 'ae', 2 * _STAGE, **_FROM_ENCODER),
    'frozen_ae:blank': _stage('blank_copy', 'ae', **_FROM_ENCODER),
    'frozen_ae:blank_2x': _stage(
        'blank_copy', 'ae', 2 * _STAGE, **_FROM_ENCODER
    ),
    'frozen_ae:blank_copy': _stage('copy', 'frozen_ae:blank', **_GOES_ON),
    'frozen_ae:combined': _stage(
        'combined', 'frozen_ae:blank_copy', **_GOES_ON
    ),
    'frozen_causal:blank': _stage(
        'blank_copy', 'memory:causal', **_FROM_ENCODER
    ),
    'frozen_causal:blank_copy': _stage(
        'copy', 'frozen_causal:blank', **_GOES_ON
    ),
    'no_memory:copy': Method(
        'memory',
        {
            'model.kind': 'none', 'task.kind': 'copy',
            'optimizer.schedule.peak': 3e-3, **_steps(2 * _STAGE),
        },
    ),
}
# (g) what compressing representations does to memory
_COMPRESSED = {
    'combined:gapt': Method('memory', _combined(1.0) | _GAPT, probe=True),
    'combined:mbe': Method('memory', _combined(1.0) | _MBE, probe=True),
    'memory:causal_gapt': Method('memory', _GAPT, probe=True),
}
# (h) arbitrary access
_NEEDLES = {
    'needle:causal': Method('memory', _NEEDLE),
    'needle:combined': Method('memory', _NEEDLE | _combined(1.0)),
    'needle:none': Method('memory', _NEEDLE | {'model.kind': 'none'}),
}
# Real bytes; the data are filled in where there are some.
_BYTES = {
    'bytes:ae': Method('autoencoder', _steps(2000), probe=True),
    'bytes:causal': Method('decoder', _steps(1500), probe=True),
    'bytes:memory': Method('memory', probe=True),
    'bytes:combined': Method('memory', _combined(1.0), probe=True),
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
_SMOKE = ('ae', 'combined:1', 'frozen_ae:blank', 'frozen_ae:blank_copy')
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
    ValueError: for an unknown family.
  """
  strangers = sorted(set(names) - set(FAMILIES))
  if strangers or not names:
    raise ValueError(
        f'families must name some of {tuple(FAMILIES)}, got {names}.'
    )
  return {
      name: method
      for family, members in FAMILIES.items()
      if family in names
      for name, method in members.items()
      if not smoke or name in _SMOKE
  }


def tree(method: Method, seed: int, text: str | None, smoke: bool):
  """The config of a run, as `variants.make_config` and JSON take it.

  Args:
    method: of the run.
    seed: of everything: language, parameters, order.
    text: file of real text, for methods that read bytes; None for the others.
    smoke: a few updates of a tiny model.

  Returns:
    A nested dict.
  """
  base = variants.change(BASES[method.base], method.changes)
  data = base['data']
  if data['kind'] == 'markov':
    data['markov']['seed'] = seed
  stacks = ['model'] if method.base == 'decoder' else [
      'model.encoder', 'model.decoder'
  ]
  changes: dict[str, Any] = {}
  if text is not None:
    length = data['markov']['length']
    base['data'] = {
        'kind': 'text',
        'batch_size': 64,
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
          f'{stack}.num_heads': 1 if 'mixer' in str(base['model']) else 2,
          f'{stack}.num_layers': 1,
      }
  return variants.change(base, changes)

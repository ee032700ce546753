"""Settings of the experiment on conflicting tasks: what its rows depend on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from iblm_jax.experiments.conflict import models, training
from iblm_jax.information import entropy
from iblm_jax.models import decoder as decoder_lib
from iblm_jax.objectives import iblm
from iblm_jax.optim import gate as gate_lib

BASELINE = 'base'
PRETRAINED = 'pretrained'  # method of the rows before fine-tuning
MODELS = ('mlp', 'transformer')
PROTOCOLS = ('spec', 'public')
Method = training.Method

_EMA = gate_lib.GateConfig(ema=0.98)
_CE = Method(iblm.ObjectiveConfig(method='ce'))


@dataclasses.dataclass(frozen=True)
class Settings:
  """One experiment.

  Attributes:
    model: 'mlp' or 'transformer'.
    chunk: Seeds that are trained together. An interrupted experiment goes on
      after its last whole chunk.
    pretrain_updates: On the mix of both groups.
    finetune_updates: On group 0 alone.
    block: Updates in one call; divides both numbers.
    batch_size: Points of a micro-batch.
    measure_patch: Window of the entropies that are reported.
    pretraining: By name, how networks are pre-trained.
    methods: By name, how they are fine-tuned.
    quick_compile: Train with code that compiles faster and runs slower.
  """

  model: str
  sizes: Mapping[str, int]
  seeds: int
  chunk: int
  pretrain_updates: int
  finetune_updates: int
  block: int
  learning_rate: float
  methods: Mapping[str, Method]
  pretraining: Mapping[str, Method]
  micro_batches: int = 1
  batch_size: int = 32
  measure_patch: int = 8
  decoder: decoder_lib.DecoderConfig | None = None
  quick_compile: bool = False

  def make_model(self) -> models.Model:
    """The network and its tasks."""
    if self.decoder is None:
      return models.network_model(**self.sizes)
    return models.transformer_model(self.decoder, **self.sizes)

  def pretrained_rows(self) -> dict[str, str]:
    """The method of the rows before fine-tuning, by way of pre-training."""
    return {
        name: PRETRAINED if name == BASELINE else f'{PRETRAINED}_{name}'
        for name in self.pretraining
    }

  def to_json(self) -> dict[str, Any]:
    """A JSON tree of all options."""
    return dataclasses.asdict(self)


def make(
    model: str,
    *,
    protocol: str = 'spec',
    seeds: int | None = None,
    smoke: bool = False,
    sweep: bool = False,
) -> Settings:
  """Chooses the settings.

  Args:
    protocol: 'spec', or 'public' (for 'mlp'): what the paper's public code
      does, with updates of 32 micro-batches that the gate sees one by one,
      1,000 updates of pre-training, with and without the gate, windows of 32
      in fine-tuning, a softplus floor, and weight 1 for the constant entropy.
    seeds: How many; None for the default.

  Raises:
    ValueError: For a choice that is not there, seeds < 1, or a protocol that
      does not go with the rest.
  """
  for name, value, choices in (
      ('model', model, MODELS), ('protocol', protocol, PROTOCOLS)
  ):
    if value not in choices:
      raise ValueError(f'{name} must be one of {choices}, got {value!r}.')
  if seeds is not None and seeds < 1:
    raise ValueError(f'seeds must be at least 1, got {seeds}.')
  if protocol == 'public' and (model != 'mlp' or sweep):
    raise ValueError("protocol 'public' is for model 'mlp' without sweep.")
  if protocol == 'public':
    settings = _public()
  elif model == 'mlp':
    settings = _network()
  else:
    settings = _transformer()
  if sweep:
    weights = (0.1, 1.0, 10.0) if model == 'mlp' else (0.03, 0.1, 0.3)
    patches = (8, 32) if model == 'mlp' else (4, 8)
    settings = dataclasses.replace(
        settings,
        seeds=50 if model == 'mlp' else 8,
        methods=_sweep_methods(weights, patches),
    )
  if smoke:
    settings = _smoke(settings)
  return dataclasses.replace(settings, seeds=seeds or settings.seeds)


def _network() -> Settings:
  return Settings(
      model='mlp',
      sizes=dict(inputs=10, hidden=20, outputs=10, train_points=500,
                 validation_points=100),
      seeds=200,
      chunk=25,
      pretrain_updates=31_250,  # 1,000 epochs of 1,000 points, 32 a batch
      finetune_updates=1000,
      block=250,
      learning_rate=0.01,
      methods=_methods(10.0),
      pretraining={'base': _CE},
  )


def _public() -> Settings:
  gapt = iblm.ObjectiveConfig(method='gapt', weight=10.0, floor='softplus')
  constant = iblm.ObjectiveConfig(method='mbe', weight=1.0, floor='softplus')
  wide = entropy.EntropyConfig(patch_size=32)
  methods = {}
  for start, prefix in (('base', ''), ('gapt', 'gapt_then_')):
    ways = {'base': _CE.objective, 'mbe': constant, 'gapt': gapt}
    for name, objective in ways.items():
      methods[f'{prefix}{name}'] = Method(
          objective, wide, pretrained_by=start
      )
  return dataclasses.replace(
      _network(),
      seeds=50,
      pretrain_updates=1000,
      block=50,
      micro_batches=32,
      methods=methods,
      pretraining={'base': _CE, 'gapt': Method(gapt)},
  )


def _transformer() -> Settings:
  return Settings(
      model='transformer',
      sizes=dict(length=16, train_points=2000, validation_points=200),
      seeds=20,
      chunk=2,
      pretrain_updates=1000,
      finetune_updates=1000,
      block=250,
      learning_rate=3e-3,
      methods=_methods(0.3),
      pretraining={'base': _CE},
      decoder=decoder_lib.DecoderConfig(
          vocab_size=24, num_layers=2, width=32, num_heads=2, mlp_width=64,
          scan_layers=False,
      ),
  )


def _methods(weight: float) -> dict[str, Method]:
  config = lambda method: iblm.ObjectiveConfig(method=method, weight=weight)
  return {
      'base': _CE,
      'mbe': Method(config('mbe')),
      'gapt': Method(config('gapt')),
      'gapt_ema': Method(config('gapt'), gate=_EMA),
      'mbe_centered': Method(
          config('mbe'), entropy.EntropyConfig(center=True)
      ),
  }


def _sweep_methods(weights, patches) -> dict[str, Method]:
  methods = {'base': _CE}
  for weight in weights:
    for patch in patches:
      for kind in ('mbe', 'gapt'):
        methods[f'{kind} weight={weight:g} patch={patch}'] = Method(
            iblm.ObjectiveConfig(method=kind, weight=weight),
            entropy.EntropyConfig(patch_size=patch),
            _EMA,
        )
  return methods


def _smoke(settings: Settings) -> Settings:
  """The same methods with phases that fit into a few updates."""
  brief = lambda method: dataclasses.replace(
      method,
      gate=dataclasses.replace(
          method.gate, patience_main=3, patience_aux=2
      ),
  )
  small = settings.decoder and dataclasses.replace(
      settings.decoder, num_layers=1
  )
  names = ('base', 'gapt_ema')
  return dataclasses.replace(
      settings,
      sizes={**settings.sizes, 'train_points': 64, 'validation_points': 16},
      seeds=2,
      chunk=2,
      pretrain_updates=40,
      finetune_updates=20,
      block=20,
      micro_batches=min(settings.micro_batches, 2),
      methods={
          name: brief(method)
          for name, method in settings.methods.items()
          if name in names or settings.micro_batches > 1
      },
      pretraining={k: brief(v) for k, v in settings.pretraining.items()},
      decoder=small,
      quick_compile=True,
  )

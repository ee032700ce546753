"""Everything that decides a training run, checked when it is built."""

import dataclasses
import itertools

from iblm_jax import fields, tagged
from iblm_jax.data import sources
from iblm_jax.models import families
from iblm_jax.objectives import iblm, layer_weights, tasks
from iblm_jax.optim import dual as dual_lib
from iblm_jax.optim import gate as gate_lib
from iblm_jax.optim import optimizers
from iblm_jax.sublora import parameterisations, paths
from iblm_jax.training import alignment as alignment_lib
from iblm_jax.training import warm_start
from iblm_jax.training.scale import mesh as mesh_lib


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """Length and rhythm of a run; steps are optimizer updates.

  Attributes:
    num_steps: length of the run.
    seed: of the initial parameters.
    accumulation: micro-batches per update.
    windows: attention windows of equally long stages of the run, in tokens,
      ascending; the last must be model.window. Each is compiled for itself.
      Empty: model.window from the start.
    log_every: steps between lines of metrics.
    eval_every: steps between evaluations; 0 evaluates at the end only.
    checkpoint_every: steps between checkpoints; 0 saves at the end only.
    keep_checkpoints: newest checkpoints kept; one damaged file of several costs
      little.
    tensorboard: write TensorBoard events too (extra `tensorboard`).
    profile_start: step at which a profiler trace begins; None for no trace.
    profile_steps: length of the trace.

  Raises:
    ValueError: for a value outside its range, naming field and value.
  """

  num_steps: int = fields.field(1000, low=1)
  seed: int = fields.field(0, low=0)
  accumulation: int = fields.field(1, low=1)
  windows: tuple[int, ...] = ()
  log_every: int = fields.field(10, low=1)
  eval_every: int = fields.field(0, low=0)
  checkpoint_every: int = fields.field(0, low=0)
  keep_checkpoints: int = fields.field(3, low=2)
  tensorboard: bool = False
  profile_start: int | None = fields.field(None, low=0)
  profile_steps: int = fields.field(3, low=1)

  def __post_init__(self):
    fields.check(self)
    if self.num_steps >= 2**31:  # optimizers count in 32 bits
      raise ValueError(f'num_steps must be < 2**31, got {self.num_steps}.')
    rising = all(a < b for a, b in itertools.pairwise((0, *self.windows)))
    if not rising or len(self.windows) > self.num_steps:
      raise ValueError(
          'windows must be positive, ascending and at most num_steps many, got'
          f' {self.windows}.'
      )

  def window_starts(self) -> tuple[int, ...]:
    """Updates made before each stage of `windows` begins.

    >>> LoopConfig(num_steps=10, windows=(64, 128, 256)).window_starts()
    (0, 4, 7)
    """
    stages = len(self.windows)
    return tuple(-(-k * self.num_steps // stages) for k in range(stages))


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A training run: the options of every package, and how they fit together.

  Attributes:
    model: a decoder or masked mixer, or, with a field `family`, an
      'autoencoder' or a 'memory' model.
    data: what it reads.
    optimizer: how it learns.
    objective: what is minimised.
    gate: when the entropy is part of it.
    dual: how much of it, for the method 'dual'; None for other methods.
    alignment: when the gradients of the two losses are compared.
    parameterisation: train few numbers that the model's parameters are a
      function of, and which a certificate codes; None trains them all.
    task: what the model is asked.
    frozen: patterns (`re.search`) of paths of parameters that never change and
      have no optimizer state, such as '^encoder/'.
    start: parameters of another run, or of a published model, to begin with;
      None begins afresh.
    mesh: which devices hold what.
    train: length and rhythm.

  Raises:
    ValueError: where options of two packages contradict each other.
  """

  model: families.ModelConfig = tagged.field(families.UNION)
  data: sources.DataConfig  # pyrefly: ignore
  optimizer: optimizers.OptimizerConfig  # pyrefly: ignore
  objective: iblm.ObjectiveConfig = iblm.ObjectiveConfig()
  gate: gate_lib.GateConfig = gate_lib.GateConfig()
  dual: dual_lib.DualConfig | None = None
  alignment: alignment_lib.AlignmentConfig = alignment_lib.AlignmentConfig()
  parameterisation: parameterisations.ParameterisationConfig | None = None
  task: tasks.TaskConfig = tasks.TaskConfig()
  frozen: tuple[str, ...] = ()
  start: warm_start.StartConfig | None = None
  mesh: mesh_lib.MeshConfig = mesh_lib.MeshConfig()
  train: LoopConfig = LoopConfig()

  def __post_init__(self):
    num_layers = families.num_layers(self.model)
    if not num_layers and self.objective.measures_entropy:
      raise ValueError(
          'model.num_layers must be given where the entropy of layers is'
          ' measured; without it, objective.measure_entropy must be False and'
          f" objective.method 'ce', got {type(self.model).__name__}."
      )
    if num_layers:
      layer_weights.check_schedule(
          self.objective.layer_schedule,
          num_layers,
          self.objective.skip_first,
          self.objective.skip_last,
      )
    if self.data.batch_size % self.train.accumulation:
      raise ValueError(
          'data.batch_size must be a multiple of train.accumulation, got'
          f' {self.data.batch_size} and {self.train.accumulation}.'
      )
    if (self.objective.method == 'dual') != (self.dual is not None):
      raise ValueError(
          "dual must be given for objective.method='dual', and only then, got"
          f' dual={self.dual!r} and method={self.objective.method!r}.'
      )
    if self.alignment.every and not self.objective.measures_entropy:
      raise ValueError(
          'alignment compares with the gradient of the entropy:'
          ' objective.measure_entropy must be True, got'
          f' alignment.every={self.alignment.every}.'
      )
    if self.alignment.every and self.alignment.halves:
      if self.train.accumulation > 1 or self.data.batch_size % 2:
        raise ValueError(
            'alignment.halves needs train.accumulation=1 and an even'
            f' data.batch_size, got {self.train.accumulation} and'
            f' {self.data.batch_size}.'
        )
    self._check_task()
    if self.train.windows:
      # Of the fields alone: some families have a property of that name.
      own = dataclasses.asdict(self.model)  # pyrefly: ignore
      window = own.get('window')
      if self.train.windows[-1] != window:
        raise ValueError(
            'the last of train.windows must be model.window, got'
            f' {self.train.windows} and {window}.'
        )
    paths.check_regexes('frozen', self.frozen)
    if self.frozen and self.parameterisation is not None:
      raise ValueError(
          'frozen is for runs that train parameters themselves, got'
          f' {self.frozen} with a parameterisation.'
      )
    if self.start is not None:
      self._check_start(self.start)
    by_parameter = self.optimizer.name == 'muon' or self.optimizer.group_peaks
    if self.parameterisation is not None and by_parameter:
      raise ValueError(
          "parameterisation needs optimizer.name='adamw' without group_peaks,"
          f' got {self.optimizer.name!r} and'
          f' {dict(self.optimizer.group_peaks or {})}: what is trained is not'
          " the model's matrices."
      )
    self._set_length_of_schedule()

  def _check_start(self, start: warm_start.StartConfig):
    """What is read must be what is trained, or what it is added to."""
    if start.workdir is not None and self.parameterisation is not None:
      raise ValueError(
          'start is for runs that train parameters themselves, got'
          f' {start.workdir!r} with a parameterisation. A model that'
          ' iblm-export wrote can be its start.pretrained.'
      )
    if start.dtype != 'float32' and self.parameterisation is None:
      raise ValueError(
          "start.dtype must be 'float32' where parameters themselves are"
          f' trained, got {start.dtype!r}.'
      )

  def _set_length_of_schedule(self):
    """Tells the schedule the length of the run, unless it was told."""
    schedule, num_steps = self.optimizer.schedule, self.train.num_steps
    if schedule.total_steps is None:
      try:
        schedule = dataclasses.replace(schedule, total_steps=num_steps)
      except ValueError as error:
        raise ValueError(f'optimizer.schedule: {error}') from error
      optimizer = dataclasses.replace(self.optimizer, schedule=schedule)
      object.__setattr__(self, 'optimizer', optimizer)
    if schedule.total_steps != num_steps:
      raise ValueError(
          'optimizer.schedule.total_steps must equal train.num_steps, got'
          f' {schedule.total_steps} and {num_steps}.'
      )

  def _check_task(self):
    """What is asked must be what the model was made for."""
    reproduces = families.family(self.model).reproduces
    if reproduces != (self.task.kind == 'regeneration'):
      raise ValueError(
          "task.kind must be 'regeneration' for an autoencoder, whose logits"
          ' reproduce tokens, and for no other model, got'
          f' {self.task.kind!r} for {type(self.model).__name__}.'
      )
    blank, vocab = self.task.blank_id, self.model.vocab_size
    if blank is not None and blank >= vocab:
      raise ValueError(
          f'task.blank_id must be below model.vocab_size {vocab}, got {blank}.'
      )

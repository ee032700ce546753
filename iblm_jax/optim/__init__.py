"""GAPT and dual ascent for any optax loop, and whole optimizers.

`with_gapt` goes around an optimizer, `value_and_grads` gives the two losses and
their gradients, and `phase` tells the phase. The package needs jax and optax
only.
"""

from iblm_jax.optim.dual import (
    DualConfig,
    DualState,
    applied_weight,
    dual_ascent,
    dual_init,
    dual_step,
    dual_weight,
)
from iblm_jax.optim.freezing import train_only
from iblm_jax.optim.gate import (
    COMPRESS,
    MEMORISE,
    GateConfig,
    GateState,
    gate_init,
    gate_step,
    is_compressing,
)
from iblm_jax.optim.gradients import apply_gradients, value_and_grads
from iblm_jax.optim.inspection import (
    dual_state,
    gate_state,
    phase,
    phase_statistics,
)
from iblm_jax.optim.optimizers import (
    OptimizerConfig,
    decay_mask_by_name,
    make_optimizer,
)
from iblm_jax.optim.schedules import ScheduleConfig, make_schedule
from iblm_jax.optim.transforms import gapt, phase_gate, with_gapt

__all__ = [
    'COMPRESS',
    'MEMORISE',
    'DualConfig',
    'DualState',
    'GateConfig',
    'GateState',
    'OptimizerConfig',
    'ScheduleConfig',
    'applied_weight',
    'apply_gradients',
    'decay_mask_by_name',
    'dual_ascent',
    'dual_init',
    'dual_state',
    'dual_step',
    'dual_weight',
    'gapt',
    'gate_init',
    'gate_state',
    'gate_step',
    'is_compressing',
    'make_optimizer',
    'make_schedule',
    'phase',
    'phase_gate',
    'phase_statistics',
    'train_only',
    'value_and_grads',
    'with_gapt',
]

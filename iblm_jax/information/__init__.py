"""Entropy, alignment and fidelity of representations; imports jax only.

Entropies: `matrix_entropy` of rows, `patch_entropy` of windows of a sequence,
`compression_profile` of what may make them small, `matrix_spectrum` and
`effective_rank`, `entropy_summary` for all of them at once, and `accumulate`
for more rows than fit in memory. Shapes: `mean_cosine`, `curvature`,
`intrinsic_dimension`. Predictions: `prediction_entropy`. Gradients:
`tree_cosine`, `layer_alignment`. Embeddings and groups: `recovered_bits`,
`separation_ratio`. What this module does not name is for its own use.
"""

import importlib
import warnings
from typing import Any

from iblm_jax.information.alignment import (
    Alignment,
    LayerAlignment,
    cosine_metrics,
    cycle_statistics,
    layer_alignment,
    tree_cosine,
    tree_dot,
)
from iblm_jax.information.entropy import (
    EntropyConfig,
    matrix_entropy,
    patch_entropy,
)
from iblm_jax.information.fidelity import (
    bits_per_byte,
    information_fraction,
    recovered_bits,
    recovered_fraction,
    storage_bits_per_byte,
)
from iblm_jax.information.geometry import (
    curvature,
    intrinsic_dimension,
    mean_cosine,
)
from iblm_jax.information.prediction import perplexity, prediction_entropy
from iblm_jax.information.profile import compression_profile, mean_share
from iblm_jax.information.separation import (
    selectivity,
    separation_ratio,
    specialised_share,
)
from iblm_jax.information.spectrum import (
    effective_rank,
    entropy_of_spectrum,
    matrix_spectrum,
)
from iblm_jax.information.streaming import (
    SpectrumAccumulator,
    accumulate,
    accumulated_entropy,
    accumulated_spectrum,
    accumulator_init,
    accumulator_merge,
)
from iblm_jax.information.summary import diff_erank, entropy_summary

__all__ = [
    'Alignment',
    'EntropyConfig',
    'LayerAlignment',
    'SpectrumAccumulator',
    'accumulate',
    'accumulated_entropy',
    'accumulated_spectrum',
    'accumulator_init',
    'accumulator_merge',
    'bits_per_byte',
    'compression_profile',
    'cosine_metrics',
    'curvature',
    'cycle_statistics',
    'diff_erank',
    'effective_rank',
    'entropy_of_spectrum',
    'entropy_summary',
    'information_fraction',
    'intrinsic_dimension',
    'layer_alignment',
    'matrix_entropy',
    'matrix_spectrum',
    'mean_cosine',
    'mean_share',
    'patch_entropy',
    'perplexity',
    'prediction_entropy',
    'recovered_bits',
    'recovered_fraction',
    'selectivity',
    'separation_ratio',
    'specialised_share',
    'storage_bits_per_byte',
    'tree_cosine',
    'tree_dot',
]

# Names of 0.1 that are in `iblm_jax.analysis` now.
_MOVED = (
    'DominantPeriod',
    'Reliability',
    'SurrogateTest',
    'autocorrelation',
    'dominant_period',
    'reliability',
    'sign_agreement',
    'surrogate_test',
    'surrogates',
)


def __getattr__(name: str) -> Any:
  if name not in _MOVED:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  package = 'iblm_jax.analysis'
  warnings.warn(
      f'{__name__}.{name} is now {package}.{name}; the old name will go with'
      ' version 0.3.',
      DeprecationWarning,
      stacklevel=2,
  )
  return getattr(importlib.import_module(package), name)

"""Entropy, alignment and fidelity of representations; imports jax only."""

from iblm_jax.information.alignment import Alignment as Alignment
from iblm_jax.information.alignment import LayerAlignment as LayerAlignment
from iblm_jax.information.alignment import cosine_metrics as cosine_metrics
from iblm_jax.information.alignment import cycle_statistics as cycle_statistics
from iblm_jax.information.alignment import layer_alignment as layer_alignment
from iblm_jax.information.alignment import tree_cosine as tree_cosine
from iblm_jax.information.alignment import tree_dot as tree_dot
from iblm_jax.information.entropy import EntropyConfig as EntropyConfig
from iblm_jax.information.entropy import matrix_entropy as matrix_entropy
from iblm_jax.information.entropy import patch_entropy as patch_entropy
from iblm_jax.information.fidelity import bits_per_byte as bits_per_byte
from iblm_jax.information.fidelity import (
    information_fraction as information_fraction,
)
from iblm_jax.information.fidelity import recovered_bits as recovered_bits
from iblm_jax.information.fidelity import (
    recovered_fraction as recovered_fraction,
)
from iblm_jax.information.fidelity import (
    storage_bits_per_byte as storage_bits_per_byte,
)
from iblm_jax.information.profile import (
    compression_profile as compression_profile,
)
from iblm_jax.information.series import DominantPeriod as DominantPeriod
from iblm_jax.information.series import Reliability as Reliability
from iblm_jax.information.series import SurrogateTest as SurrogateTest
from iblm_jax.information.series import autocorrelation as autocorrelation
from iblm_jax.information.series import dominant_period as dominant_period
from iblm_jax.information.series import reliability as reliability
from iblm_jax.information.series import sign_agreement as sign_agreement
from iblm_jax.information.series import surrogate_test as surrogate_test
from iblm_jax.information.series import surrogates as surrogates
from iblm_jax.information.spectrum import effective_rank as effective_rank
from iblm_jax.information.spectrum import (
    entropy_of_spectrum as entropy_of_spectrum,
)
from iblm_jax.information.spectrum import matrix_spectrum as matrix_spectrum
from iblm_jax.information.streaming import (
    SpectrumAccumulator as SpectrumAccumulator,
)
from iblm_jax.information.streaming import accumulate as accumulate
from iblm_jax.information.streaming import (
    accumulated_entropy as accumulated_entropy,
)
from iblm_jax.information.streaming import accumulator_init as accumulator_init
from iblm_jax.information.streaming import (
    accumulator_merge as accumulator_merge,
)

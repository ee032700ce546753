"""Entropy, spectra and alignment of representations; imports jax only."""

from iblm_jax.information.entropy import EntropyConfig as EntropyConfig
from iblm_jax.information.entropy import matrix_entropy as matrix_entropy
from iblm_jax.information.entropy import patch_entropy as patch_entropy
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

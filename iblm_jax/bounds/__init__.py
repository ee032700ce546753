"""Compression-based generalisation bounds: arrays in, numbers out.

Nothing in here knows a model. Losses, codes and certificates are host data in
float64; what training and evaluation need (`smoothed_nll_bits`, `doc_losses`,
`rank_of_target`, `top_k_errors`, `ste_quantize`) runs inside `jax.jit`.

All bounds hold for m independent units, and as well for m units drawn without
replacement from a finite population, whose mean is then the risk (Hoeffding
1963, theorem 4; that mean includes the units that were drawn). Risks are in the
unit of the loss, penalties in nats. These arguments mean the same in all:

* `K_bits`: Length of the model's prefix-free code in bits, search included; at
  least 0.
* `m`: Number of units of the training set.
* `lo`, `width` (or `delta_width`): Smallest possible loss (a), and largest
  possible loss minus smallest (Δ), > 0. `losses` outside are an error.
* `delta`: Probability that the claim fails, in (0, 1). Where only some of the
  units are scored, `delta1` is the probability that the m units mislead,
  `delta2` that the draw from them does; the claim fails with their sum, < 1.
* `n_alpha`: Losses (α of the smoothing, k of the top-k error) that are claimed
  together, or whose smallest bound is reported.
* `n_runs`: Models that are scored on draws of their own and whose best is
  reported. A model must not have been chosen by looking at the draw that scores
  it.

Every function raises one `ValueError`, with name, value and allowed range, for
an argument outside its range.
"""

from iblm_jax.bounds.betting import logistic_grid
from iblm_jax.bounds.bound import Bound
from iblm_jax.bounds.code_length import (
    SCHEMES,
    elias_delta_bits,
    elias_gamma_bits,
    ideal_bits,
    payload_bits,
    prefix_bits,
)
from iblm_jax.bounds.codebooks import (
    fit_codebook,
    fit_step,
    nearest_symbols,
    step_values,
)
from iblm_jax.bounds.coding import decode, decode_values, encode
from iblm_jax.bounds.finite_population import (
    GRID_FINITE,
    counting_bound,
    occam_logwealth_finite,
    occam_serfling,
    unseen_risk,
)
from iblm_jax.bounds.kl import catoni, kl_inverse, occam_kl
from iblm_jax.bounds.logwealth import (
    GRID_S,
    GRID_T,
    occam_logwealth,
    occam_logwealth_subsample,
)
from iblm_jax.bounds.martingale import azuma_tokens, empirical_freedman
from iblm_jax.bounds.occam import (
    max_code_bits,
    occam_hoeffding,
    occam_subsample,
    occam_subsample_ref,
)
from iblm_jax.bounds.smoothing import (
    ALPHAS,
    SmoothRange,
    doc_losses,
    smooth_range,
    smoothed_nll_bits,
)
from iblm_jax.bounds.straight_through import ste_quantize
from iblm_jax.bounds.top_k import rank_of_target, top_k_errors
from iblm_jax.bounds.whole_documents import (
    document_range,
    excess_limit,
    excess_of_documents,
    smoothed_documents,
)

__all__ = [
    'ALPHAS',
    'GRID_FINITE',
    'GRID_S',
    'GRID_T',
    'SCHEMES',
    'Bound',
    'SmoothRange',
    'azuma_tokens',
    'catoni',
    'counting_bound',
    'decode',
    'decode_values',
    'doc_losses',
    'document_range',
    'elias_delta_bits',
    'elias_gamma_bits',
    'empirical_freedman',
    'encode',
    'excess_limit',
    'excess_of_documents',
    'fit_codebook',
    'fit_step',
    'ideal_bits',
    'kl_inverse',
    'logistic_grid',
    'max_code_bits',
    'nearest_symbols',
    'occam_hoeffding',
    'occam_kl',
    'occam_logwealth',
    'occam_logwealth_finite',
    'occam_logwealth_subsample',
    'occam_serfling',
    'occam_subsample',
    'occam_subsample_ref',
    'payload_bits',
    'prefix_bits',
    'rank_of_target',
    'smooth_range',
    'smoothed_documents',
    'smoothed_nll_bits',
    'ste_quantize',
    'step_values',
    'top_k_errors',
    'unseen_risk',
]

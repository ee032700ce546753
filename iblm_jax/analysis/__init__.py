"""What a model does: profiles of its layers, attribution, time series."""

from iblm_jax.analysis.agreement import (
    Reliability,
    reliability,
    sign_agreement,
)
from iblm_jax.analysis.attribution import (
    gradient_times_input,
    occlusion,
    scale_scores,
    shift_entropy,
)
from iblm_jax.analysis.invariance import (
    dime,
    lidar,
    replace_tokens,
    view_infonce,
)
from iblm_jax.analysis.layer_survey import Survey, survey
from iblm_jax.analysis.layers import LayerStatistics, layer_statistics
from iblm_jax.analysis.profiles import layer_profiles
from iblm_jax.analysis.retrieval import draw_queries, infonce
from iblm_jax.analysis.series import (
    DominantPeriod,
    SurrogateTest,
    autocorrelation,
    dominant_period,
    surrogate_test,
    surrogates,
)

__all__ = [
    'DominantPeriod',
    'LayerStatistics',
    'Reliability',
    'SurrogateTest',
    'Survey',
    'autocorrelation',
    'dime',
    'dominant_period',
    'draw_queries',
    'gradient_times_input',
    'infonce',
    'layer_profiles',
    'layer_statistics',
    'lidar',
    'occlusion',
    'reliability',
    'replace_tokens',
    'scale_scores',
    'shift_entropy',
    'sign_agreement',
    'surrogate_test',
    'surrogates',
    'survey',
    'view_infonce',
]

"""Certificates: quantise, code, score, bound, verify.

`certify` and `verify` take a vector and a loss of one's own; for runs of this
library they are `pipeline.certify` and `verification.verify`.
"""

from iblm_jax.bounds.options import CertificateConfig
from iblm_jax.certification.certificate import Certificate
from iblm_jax.certification.comparison import Mismatch
from iblm_jax.certification.quantisation import Code, decode, quantise
from iblm_jax.certification.scoring import (
    DocumentLosses,
    Measure,
    Subject,
    losses_of_tokens,
)
from iblm_jax.certification.vector_subject import Population
from iblm_jax.certification.vectors import certify, verify

__all__ = [
    'Certificate',
    'CertificateConfig',
    'Code',
    'DocumentLosses',
    'Measure',
    'Mismatch',
    'Population',
    'Subject',
    'certify',
    'decode',
    'losses_of_tokens',
    'quantise',
    'verify',
]

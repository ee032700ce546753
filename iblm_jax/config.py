"""Configs of runs: from a ConfigDict to validated options, and back."""

from iblm_jax.training.config import (
    RunConfig,
    build,
    check_workdir,
    claim_workdir,
    differences,
    from_dict,
    read_run,
    to_dict,
)

__all__ = [
    'RunConfig',
    'build',
    'check_workdir',
    'claim_workdir',
    'differences',
    'from_dict',
    'read_run',
    'to_dict',
]

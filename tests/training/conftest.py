"""Small runs that every test of training can change."""

import ml_collections
import pytest


@pytest.fixture
def tiny():
  """Config of a run of a few seconds, as a ConfigDict."""
  return ml_collections.ConfigDict(
      dict(
          model=dict(
              vocab_size=15,
              num_layers=3,
              width=16,
              num_heads=2,
              activation='relu2',
              document_mask=False,
              entropy=dict(alpha=2.0, patch_size=8),
          ),
          data=dict(batch_size=8, multiplication=dict(eval_rows=16)),
          objective=dict(
              method='gapt', weight=0.1, layer_schedule='all_middle'
          ),
          # No step improves by half, so the phases alternate.
          gate=dict(patience_main=3, patience_aux=2, rtol_main=0.5),
          optimizer=dict(schedule=dict(peak=1e-2, warmup_steps=2)),
          mesh=dict(data=1),
          train=dict(
              num_steps=12, log_every=2, eval_every=6, checkpoint_every=4
          ),
      )
  )

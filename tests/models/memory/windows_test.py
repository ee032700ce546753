import jax
import numpy as np
import pytest
import tiny_models

from iblm_jax.models.memory import windows as memory_windows

BATCH, CHUNKS, LENGTH, WIDTH = 2, 3, 4, 5


def random_inputs():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  memory = normal(BATCH, CHUNKS - 1, WIDTH)
  has = np.asarray([[True, True], [False, True]])
  slot, x = normal(WIDTH), normal(BATCH, CHUNKS, LENGTH, WIDTH)
  mask = rng.random((BATCH, CHUNKS, LENGTH)) < 0.7
  return memory, has, slot, x, mask


def by_hand(memory, has, slot, x, mask, cfg):
  """Window by window, place by place."""
  rows, present, positions = [], [], []
  for b in range(BATCH):
    for c in range(CHUNKS):
      row, seen = [], []
      for j in range(CHUNKS):
        # In the layout 'recent' memories end beside the last slot.
        chunk = j - (CHUNKS - 1) + c if cfg.layout == 'recent' else j
        is_past = 0 <= chunk < c and j < CHUNKS - 1
        is_memory = memory is not None and is_past and has[b, chunk]
        row.append(memory[b, chunk] if is_memory else slot)
        is_last = j == CHUNKS - 1
        seen.append(is_memory or is_last or cfg.empty == 'learned')
      rows.append(row + list(x[b, c]))
      present.append(seen + list(mask[b, c]))
      shift = CHUNKS - 1 - c if cfg.layout == 'variable' else 0
      positions.append(
          list(range(CHUNKS - 1))
          + [place - shift for place in range(CHUNKS - 1, CHUNKS + LENGTH)]
      )
  return np.asarray(rows), np.asarray(present), np.asarray(positions)


@pytest.mark.parametrize('has_memory', [True, False])
@pytest.mark.parametrize(
    'layout, empty',
    [
        ('fixed', 'masked'), ('fixed', 'learned'), ('variable', 'masked'),
        ('recent', 'masked'), ('recent', 'learned'),
    ],
)
def test_windows_by_hand(layout, empty, has_memory):
  cfg = tiny_models.memory(layout=layout, empty=empty)
  memory, has, slot, x, mask = random_inputs()
  if not has_memory:
    memory = has = None
  lay_out = jax.jit(memory_windows.lay_out, static_argnames='cfg')
  found = lay_out(memory, has, slot, x, mask, cfg=cfg)
  expected = by_hand(memory, has, slot, x, mask, cfg)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


def test_states_that_predict_the_next_token_by_hand():
  slots = 2
  y = np.random.default_rng(0).normal(
      size=(BATCH, CHUNKS, slots + LENGTH, WIDTH)
  )
  y = y.astype(np.float32)
  found = np.asarray(memory_windows.next_token_states(y, LENGTH))
  assert found.shape == (BATCH, CHUNKS * LENGTH, WIDTH)
  for t in range(CHUNKS * LENGTH):
    if t + 1 < CHUNKS * LENGTH:
      chunk, j = divmod(t + 1, LENGTH)  # of the token that is predicted
      expected = y[:, chunk, slots + j - 1]
    else:
      expected = y[:, -1, -1]
    np.testing.assert_array_equal(found[:, t], expected)

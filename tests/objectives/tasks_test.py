"""Tasks against plain Python written from their definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iblm_jax.models import outputs
from iblm_jax.objectives import causal, iblm, tasks
from iblm_jax.optim import gate
from iblm_jax.training import alignment, evaluation, gradients
from iblm_jax.training import state as state_lib
from iblm_jax.training import step as step_lib

LENGTH, VOCAB, BLANK = 8, 11, 10
# Which tokens are there, of rows padded in every way.
PADDING = (
    'xxxxxxxx', 'xxxxxx..', 'xxx.....', 'x.......', '..xxxxxx', '.....xxx',
    '..xxxx..', 'x.x.xx.x', '.x..x.x.', '........',
)


def make_batch(padding=PADDING, length=LENGTH, seed=0):
  """Rows of random tokens; next tokens count where they are there."""
  rng = np.random.default_rng(seed)
  mask = np.array([[c == 'x' for c in row] for row in padding])
  row = rng.integers(VOCAB - 1, size=(len(padding), length + 1), dtype=np.int32)
  return {
      'tokens': row[:, :-1].copy(),
      'targets': row[:, 1:].copy(),
      'loss_mask': mask & (rng.random(mask.shape) < 0.8),
      'mask': mask,
      'segment_ids': np.where(mask, rng.integers(1, 3, mask.shape), 0),
      'positions': rng.integers(0, 5, mask.shape, dtype=np.int32),
  }


def full_batch(rows, length, seed=0):
  batch = make_batch(('x' * length,) * rows, length, seed)
  batch['loss_mask'] = np.ones([rows, length], bool)
  return batch


def copied_by_hand(batch, blank=None):
  """By row: what is read, and {place: token that is asked for there}."""
  rows = []
  for tokens, there in zip(batch['tokens'], batch['mask'], strict=True):
    half = len(tokens) // 2
    source, is_there = list(tokens[:half]), list(there[:half])
    again = source if blank is None else [blank] * half
    asked = {
        # A place asks for the token after it.
        half + k - 1: source[k] for k in range(half) if is_there[k]
    }
    rows.append((source + again, is_there + is_there, asked))
  return rows


@pytest.mark.parametrize('kind', ['copy', 'blank_copy'])
def test_copying_is_as_written_by_hand(kind):
  batch = make_batch()
  seen = jax.jit(lambda b: tasks.view(b, kind, BLANK))(batch)
  by_hand = copied_by_hand(batch, BLANK if kind == 'blank_copy' else None)
  for row, (tokens, there, asked) in enumerate(by_hand):
    assert seen['tokens'][row].tolist() == tokens
    assert seen['mask'][row].tolist() == there
    assert seen['segment_ids'][row].tolist() == [int(x) for x in there]
    assert seen['positions'][row].tolist() == list(range(LENGTH))
    places = np.flatnonzero(seen['loss_mask'][row]).tolist()
    assert places == sorted(asked), PADDING[row]
    for place, token in asked.items():
      assert seen['targets'][row, place] == token
  for name, array in batch.items():
    assert seen[name].dtype == array.dtype or name == 'segment_ids'
    assert seen[name].shape == array.shape


def test_the_copy_begins_at_the_last_place_of_the_source():
  batch = full_batch(1, LENGTH)
  seen = tasks.view(batch, 'copy', BLANK)
  half = LENGTH // 2
  assert seen['targets'][0, half - 1] == batch['tokens'][0, 0]
  assert np.flatnonzero(seen['loss_mask'][0]).tolist() == [3, 4, 5, 6]
  assert seen['loss_mask'].sum() == half  # every token of the source, once


def test_other_kinds():
  batch = make_batch()
  same = tasks.view(batch, 'causal', BLANK)
  assert all(same[name] is batch[name] for name in batch)
  again = tasks.view(batch, 'regeneration', BLANK)
  np.testing.assert_array_equal(again['targets'], batch['tokens'])
  np.testing.assert_array_equal(again['loss_mask'], batch['mask'])
  for name in ('tokens', 'mask', 'segment_ids', 'positions'):
    assert again[name] is batch[name]


@pytest.mark.parametrize('kind', ['copy', 'blank_copy', 'regeneration'])
def test_a_perfect_predictor_is_right_everywhere(kind):
  """It knows the row, not the targets; one place off, it is mostly wrong."""
  batch = make_batch()
  seen = tasks.view(batch, kind, BLANK)
  half = LENGTH // 2
  told = np.zeros([len(PADDING), LENGTH + 1, VOCAB], np.float32)
  for row, tokens in enumerate(batch['tokens']):
    for place in range(LENGTH):
      if kind == 'regeneration':
        told[row, place, tokens[place]] = 1.0
      elif place >= half - 1:
        told[row, place, tokens[(place + 1 - half) % half]] = 1.0
  scored = lambda logits: causal.token_sums(
      logits, seen['targets'], seen['loss_mask']
  )
  sums = scored(told[:, :-1])
  assert sums.correct == sums.tokens > 15 and sums.exact == sums.rows
  late = scored(np.roll(told, 1, axis=1)[:, :-1])
  assert late.correct < 0.5 * late.tokens


def test_blanks():
  assert tasks.blank(tasks.TaskConfig('blank_copy'), VOCAB) == VOCAB - 1
  cfg = tasks.TaskConfig('blank_copy', blank_id=3)
  made = tasks.make(full_batch(2, LENGTH), cfg, VOCAB)
  assert made['tokens'][:, LENGTH // 2 :].tolist() == [[3] * 4] * 2
  for has, options in (
      (False, dict(kind='copy')),
      (False, dict(kind='combined', copying='copy')),
      (True, dict(kind='combined', copying='blank_copy')),
      (True, dict(kind='causal', also_measure=('blank_copy',))),
  ):
    assert tasks.TaskConfig(**options).has_blanks == has


def test_views():
  views = lambda **options: tasks.TaskConfig(**options).views
  assert views() == ('causal',)
  both = dict(kind='combined', copying='blank_copy')
  assert views(**both) == ('causal', 'blank_copy')
  more = ('blank_copy', 'copy', 'causal')
  assert views(**both, also_measure=more) == ('causal', 'blank_copy', 'copy')
  assert views(kind='copy', also_measure=('causal',)) == ('copy', 'causal')


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kind='cloze'), "kind must be one of .* got 'cloze'"),
        (dict(copying='causal'), "copying must be one of .* got 'causal'"),
        (dict(copy_weight=-0.5), 'copy_weight must be finite .* got -0.5'),
        (dict(copy_weight=float('inf')), 'copy_weight must be finite'),
        (dict(blank_id=-1), 'blank_id must be >= 0, got -1'),
        (dict(also_measure=('combined',)), "also_measure .*got .'combined'"),
        (dict(kind='regeneration', also_measure=('copy',)), 'also_measure'),
    ],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    tasks.TaskConfig(**options)


def test_what_cannot_be_seen_is_refused():
  with pytest.raises(ValueError, match="kind must be one of .* 'combined'"):
    tasks.view(make_batch(), 'combined', BLANK)
  with pytest.raises(ValueError, match='must be even, got 7 tokens'):
    tasks.view(full_batch(2, 7), 'copy', BLANK)


def table(length):
  """A model as small as can be: logits of a token and of its place."""
  rng = np.random.default_rng(7)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  return {'token': draw(VOCAB, VOCAB), 'place': draw(length, VOCAB)}


def apply(params, tokens, *, collect=None, **_):
  logits = params['token'][tokens] + params['place'][None]
  # Stands for the entropy of one layer: any number that depends on the rows.
  entropy = jnp.mean(logits**2)[None] if collect else None
  return outputs.Outputs(logits, entropy=entropy)


def nll_by_hand(params, tokens):
  """-log p of every token at every place, float64 [B, L, V]."""
  logits = np.float64(params['token'])[tokens] + np.float64(params['place'])
  return np.log(np.exp(logits).sum(-1, keepdims=True)) - logits


def mean_by_hand(params, batch, asked=None):
  """Mean loss of a batch, or of what is asked for by row."""
  if asked is None:
    nll = nll_by_hand(params, batch['tokens'])
    found = [
        nll[b, t, batch['targets'][b, t]]
        for b, t in zip(*np.nonzero(batch['loss_mask']), strict=True)
    ]
  else:
    nll = nll_by_hand(params, np.array([tokens for tokens, *_ in asked]))
    found = [
        nll[row, place, token]
        for row, (_, _, places) in enumerate(asked)
        for place, token in places.items()
    ]
  return np.mean(found)


def combined_loss(params, batch, **options):
  return _combined_loss(params, batch, tasks.TaskConfig('combined', **options))


@functools.partial(jax.jit, static_argnums=2)
def _combined_loss(params, batch, cfg):
  return iblm.losses(
      params,
      tasks.make(batch, cfg, VOCAB),
      jnp.zeros([], jnp.int32),
      jnp.float32(1e9),  # of no use here
      apply=apply,
      num_layers=1,
      cfg=iblm.ObjectiveConfig(method='ce'),
  )[0].main


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(copy_weight=0.25, copying='blank_copy'),
        dict(copy_weight=0.0),
    ],
    ids=str,
)
def test_combined_is_the_sum_of_two_means(options):
  """Each over its own targets, however many there are of the other."""
  batch, params = make_batch(), table(LENGTH)
  blank = BLANK if options.get('copying') == 'blank_copy' else None
  expected = mean_by_hand(params, batch) + options.get(
      'copy_weight', 1.0
  ) * mean_by_hand(params, batch, copied_by_hand(batch, blank))
  found = combined_loss(params, batch, **options)
  assert float(found) == pytest.approx(expected, rel=1e-6)


def test_half_a_copy_is_the_sum_of_the_public_code():
  """C = 4: (causal losses of 4 chunks + copying losses of 2 chunks) / 4."""
  chunks, length = 4, 4
  batch, params = full_batch(3, chunks * length), table(chunks * length)
  # A chunk is that of the token asked for; it leaves out a chunk's first.
  batch['loss_mask'][:] = (np.arange(16) + 1) % length > 0
  nll = nll_by_hand(params, batch['tokens'])
  total = 0.0
  for chunk in range(chunks):
    total += np.mean([
        nll[row, t - 1, batch['targets'][row, t - 1]]
        for row in range(3)
        for t in range(chunk * length + 1, (chunk + 1) * length)
    ])
  asked = copied_by_hand(batch)
  nll = nll_by_hand(params, np.array([tokens for tokens, *_ in asked]))
  for chunk in (2, 3):
    total += np.mean([
        nll[row, t - 1, asked[row][2][t - 1]]
        for row in range(3)
        for t in range(chunk * length, (chunk + 1) * length)
    ])
  found = combined_loss(params, batch, copy_weight=0.5)
  assert float(found) == pytest.approx(total / chunks, rel=1e-6)


def test_padding_and_what_does_not_count_change_nothing():
  batch, params = make_batch(), table(LENGTH)
  expected = combined_loss(params, batch)
  other = make_batch(seed=1)
  changed = dict(batch)
  there = batch['mask']
  changed['targets'] = np.where(
      batch['loss_mask'], batch['targets'], other['targets']
  )
  # Only tokens that are there are asked for again.
  half = LENGTH // 2
  asked = tasks.view(batch, 'copy', BLANK)
  swapped = {**batch, 'tokens': np.where(there, batch['tokens'], 0)}
  again = tasks.view(swapped, 'copy', BLANK)
  counted = np.asarray(asked['loss_mask'])
  np.testing.assert_array_equal(counted, again['loss_mask'])
  np.testing.assert_array_equal(
      asked['targets'][counted], again['targets'][counted]
  )
  assert (asked['tokens'][:, :half] != again['tokens'][:, :half]).any()
  np.testing.assert_array_equal(combined_loss(params, changed), expected)
  # Rows of padding, and logits that are not numbers where nothing counts.
  nothing = {name: np.zeros_like(array) for name, array in batch.items()}
  longer = {k: np.concatenate([batch[k], nothing[k]]) for k in batch}
  np.testing.assert_allclose(
      combined_loss(params, longer), expected, rtol=1e-6
  )
  holes = {**params, 'place': params['place'].at[-1].set(jnp.nan)}
  some = dict(batch, loss_mask=batch['loss_mask'].copy())
  some['loss_mask'][:, -1] = False
  np.testing.assert_array_equal(
      combined_loss(holes, some), combined_loss(params, some)
  )
  assert combined_loss(params, nothing) == 0.0


@pytest.mark.parametrize('parts', [1, 2, 3])
def test_every_part_has_rows_and_their_copies(parts):
  batch = full_batch(6, LENGTH)
  batch['tokens'][:, 0] = np.arange(6)  # numbers of the rows
  batch['targets'][:] = VOCAB - 1
  cfg = tasks.TaskConfig('combined', copy_weight=0.25)
  split = gradients.split(tasks.make(batch, cfg, VOCAB, parts), parts)
  for part in range(parts):
    rows = split['tokens'][part, :, 0].tolist()
    is_causal = split['targets'][part, :, 0] == VOCAB - 1
    own = [row for row in range(6) if row % parts == part]
    for kind in (is_causal, ~is_causal):
      assert [r for r, yes in zip(rows, kind, strict=True) if yes] == own
    weights = np.where(is_causal, 1 / (6 * LENGTH), 0.25 / (6 * LENGTH / 2))
    np.testing.assert_allclose(split['loss_weight'][part], weights, rtol=1e-6)


def test_a_step_in_parts_is_the_step_of_the_batch():
  batch, params = make_batch(PADDING[:6]), table(LENGTH)
  cfg = tasks.TaskConfig('combined', copy_weight=0.5, copying='blank_copy')
  expected = mean_by_hand(params, batch) + 0.5 * mean_by_hand(
      params, batch, copied_by_hand(batch, BLANK)
  )
  tx = optax.with_extra_args_support(optax.sgd(0.1))
  found = []
  for accumulation in (1, 2, 3):
    step = jax.jit(
        lambda state, batch, accumulation=accumulation: step_lib.train_step(
            state,
            batch,
            apply=apply,
            num_layers=1,
            tx=tx,
            learning_rate=optax.constant_schedule(0.1),
            objective=iblm.ObjectiveConfig(method='ce', weight=0.0),
            gate_config=gate.GateConfig(),
            accumulation=accumulation,
            task=cfg,
            vocab_size=VOCAB,
        )
    )
    state = state_lib.TrainState(
        jnp.zeros([], jnp.int32), params, tx.init(params)
    )
    state, metrics = step(state, batch)
    assert float(metrics['train/cross_entropy']) == pytest.approx(
        expected, rel=1e-6
    )
    found.append(state.params)
  assert not np.array_equal(found[0]['token'], params['token'])
  for other in found[1:]:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        found[0],
        other,
    )


def gradients_by_hand(params, batch, weight):
  """Of both losses, by parameter: of the table of tokens and of places."""
  of_main = {name: np.zeros(leaf.shape) for name, leaf in params.items()}
  of_entropy = {name: np.zeros(leaf.shape) for name, leaf in params.items()}
  asked = copied_by_hand(batch)
  causal_row = lambda b: [
      (t, batch['targets'][b, t]) for t in np.flatnonzero(batch['loss_mask'][b])
  ]
  views = (
      (1.0, [(batch['tokens'][b], causal_row(b)) for b in range(len(asked))]),
      (weight, [(row[0], list(row[2].items())) for row in asked]),
  )
  places = LENGTH * 2 * len(asked)
  for of_task, rows in views:
    counted = sum(len(targets) for _, targets in rows)
    for tokens, targets in rows:
      logits = np.float64(params['token'])[tokens] + params['place']
      for t, token in targets:
        g = np.exp(logits[t]) / np.exp(logits[t]).sum() - np.eye(VOCAB)[token]
        of_main['token'][tokens[t]] += of_task * g / counted
        of_main['place'][t] += of_task * g / counted
      for t, token in enumerate(tokens):
        h = 2 * logits[t] / (VOCAB * places)
        of_entropy['token'][token] += h
        of_entropy['place'][t] += h
  return of_main, of_entropy


def cosine(a, b, *names):
  a, b = (
      np.concatenate([np.ravel(x[name]) for name in names or sorted(x)])
      for x in (a, b)
  )
  return a @ b / np.sqrt((a @ a) * (b @ b))


def test_alignment_is_that_of_both_tasks_of_half_of_the_rows():
  """Of a tree like a memory model's: blocks are the encoder's."""
  batch, params = full_batch(6, LENGTH), table(LENGTH)
  as_model = lambda p: {
      'encoder': {'blocks': {'token': p['token'][None]}},
      'decoder': {'blocks': {'place': p['place'][None]}},
  }
  plain = lambda p: {
      'token': p['encoder']['blocks']['token'][0],
      'place': p['decoder']['blocks']['place'][0],
  }
  tx = optax.with_extra_args_support(optax.sgd(0.1))
  step = functools.partial(
      step_lib.train_step,
      apply=lambda p, *args, **options: apply(plain(p), *args, **options),
      num_layers=1,
      tx=tx,
      learning_rate=optax.constant_schedule(0.1),
      objective=iblm.ObjectiveConfig(
          'mbe', layer_schedule='all_middle', skip_first=0, skip_last=0
      ),
      gate_config=gate.GateConfig(),
      task=tasks.TaskConfig('combined', copy_weight=0.5),
      vocab_size=VOCAB,
      align=alignment.AlignmentConfig(every=1, halves=True),
  )
  start = as_model(params)
  state = state_lib.TrainState(jnp.zeros([], jnp.int32), start, tx.init(start))
  _, found = jax.jit(step)(state, batch)
  g, h = gradients_by_hand(params, batch, 0.5)
  halves = [
      gradients_by_hand(params, {k: x[n::2] for k, x in batch.items()}, 0.5)
      for n in (0, 1)
  ]
  (g_a, h_a), (g_b, h_b) = halves
  for name, value in {
      'cosine': cosine(g, h),
      'cosine/layer_00': cosine(g, h, 'token'),
      'norm_main/layer_00': np.linalg.norm(g['token']),
      'norm_aux': np.hypot(*(np.linalg.norm(h[k]) for k in h)),
      'halves/cosine_main': cosine(g_a, g_b),
      'halves/cosine_aux': cosine(h_a, h_b),
      'halves/cosine_aa': cosine(g_a, h_a),
      'halves/cosine_ba': cosine(g_b, h_a),
      'halves/cosine_ab/layer_00': cosine(g_a, h_b, 'token'),
  }.items():
    np.testing.assert_allclose(
        found[f'alignment/{name}'], value, rtol=1e-4, atol=1e-5, err_msg=name
    )


def test_evaluations_measure_the_first_view_and_the_others_by_name():
  """The order of views is not that of their names."""
  batch, params = make_batch(), table(LENGTH)
  cfg = tasks.TaskConfig(
      'combined', copying='copy', also_measure=('blank_copy',)
  )
  sums = jax.jit(
      lambda p, b: evaluation.eval_step(
          p, b, apply=apply, task=cfg, vocab_size=VOCAB
      )
  )(params, batch)
  of = lambda sums: float(sums.nll / sums.tokens)
  assert of(sums.first) == pytest.approx(
      mean_by_hand(params, batch), rel=1e-6
  )
  assert set(sums.others) == {'copy', 'blank_copy'}
  for name, blank in (('copy', None), ('blank_copy', BLANK)):
    asked = copied_by_hand(batch, blank)
    assert of(sums.others[name]) == pytest.approx(
        mean_by_hand(params, batch, asked), rel=1e-6
    )
  assert sums.first.rows == batch['loss_mask'].any(axis=1).sum()
  logits = np.float64(params['token'])[batch['tokens']]
  entropy = np.mean((logits + np.float64(params['place'])) ** 2)
  np.testing.assert_allclose(
      sums.entropy_N, [entropy * float(sums.first.rows)], rtol=1e-5
  )

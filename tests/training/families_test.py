"""All model families in one training floor."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_families

from iblm_jax import config as config_lib
from iblm_jax.models import autoencoder
from iblm_jax.models import config as model_config
from iblm_jax.models.memory import model as memory
from iblm_jax.objectives import causal
from iblm_jax.optim import gate
from iblm_jax.training import loop
from iblm_jax.training import program as program_lib
from iblm_jax.training import state as state_lib
from iblm_jax.training.scale import compile_report
from iblm_jax.training.scale import mesh as mesh_lib

VARIANTS = {
    'autoencoder': ('markov', 'mixer', 'text', 'smoke'),
    'memory': (
        'combined', 'causal', 'blank', 'no_memory', 'recurrent', 'oracle',
        'mixer', 'gapt', 'full_context', 'text', 'smoke',
    ),
}
FAMILY_OF = {
    'autoencoder': autoencoder.AutoencoderConfig,
    'memory': memory.MemoryConfig,
    'full_context': model_config.DecoderConfig,
}


@pytest.mark.parametrize(
    'name, variant', [(n, v) for n, vs in VARIANTS.items() for v in vs]
)
def test_config_files_build_and_survive_json(name, variant):
  c = tiny_families.load(name, variant)
  if variant == 'text':
    c.data.text.paths = 'a.txt'
  cfg = config_lib.from_dict(c)
  assert type(cfg.model) is FAMILY_OF.get(variant, FAMILY_OF[name])
  tree = config_lib.to_dict(cfg)
  assert config_lib.from_dict(tree) == cfg
  assert tree['model'].get('family', 'decoder') == (
      'decoder' if variant == 'full_context' else name
  )
  hash(cfg)
  with pytest.raises(ValueError, match="variant must be one of .* got 'x'"):
    tiny_families.load(name, 'x')


def test_a_decoder_may_say_its_family():
  c = tiny_families.load('memory', 'full_context')
  plain = config_lib.from_dict(c)
  c.model.family = 'decoder'
  assert config_lib.from_dict(c) == plain


def changed(name, *changes):
  """A small config with fields set: ('task.kind', 'causal')."""
  tree = tiny_families.small(name).to_dict()
  for path, value in changes:
    *groups, last = path.split('.')
    functools.reduce(lambda group, key: group[key], groups, tree)[last] = value
  return tree


@pytest.mark.parametrize(
    'name, change, message',
    [
        ('memory', ('model.family', 'rnn'),
         r"^config.model.family must be one of \('decoder', 'autoencoder',"
         r" 'memory'\), got 'rnn'.$"),
        ('memory', ('model.family', ['memory']), 'config.model.family must be'),
        ('memory', ('model.family', 'decoder'),
         '^config.model.chunk_length is not a field'),
        ('memory', ('model.family', 'autoencoder'),
         '^config.model.chunk_length is not a field'),
        ('memory', ('model', 'memory'), 'config.model must be a group'),
        ('memory', ('model.encoder.norm', 'batch'),
         'config.model.encoder: norm must be one of'),
        ('memory', ('model.encoder.tie_embeddings', False),
         'config.model: encoder.tie_embeddings must be True'),
        ('memory', ('model.num_chunks', 1), 'config.model: num_chunks must be'),
        ('autoencoder', ('task.kind', 'causal'),
         "task.kind must be 'regeneration' for an autoencoder, .* got 'causal'"
         ' for AutoencoderConfig'),
        ('memory', ('task', dict(kind='regeneration')),
         "and for no other model, got 'regeneration' for MemoryConfig"),
        ('memory', ('task.blank_id', 16),
         'task.blank_id must be below model.vocab_size 16, got 16'),
        ('memory', ('task.kinds', 'copy'), 'config.task.kinds is not a field'),
        ('memory', ('train.windows', [12]), 'windows must be model.window'),
        ('memory', ('objective.skip_first', 1), 'leave at least 1 of the 1'),
        ('memory', ('frozen', ['(']), "frozen must be regular .* got '\\('"),
    ],
)
def test_bad_fields_are_named(name, change, message):
  with pytest.raises(ValueError, match=message):
    config_lib.from_dict(changed(name, change))


@pytest.mark.parametrize(
    'name, changes, message',
    [
        ('memory', [('data.markov.length', 30)],
         "must have 32 tokens, as the model has, got 30 in 'train'"),
        ('autoencoder', [('data.markov.length', 16)],
         'must have 8 tokens, as the model has, got 16'),
        ('memory', [('data.markov.vocab_size', 16)],
         'vocab_size must be more than that of the data, 16: its last token is'
         ' the blank'),
        ('autoencoder', [('data.markov.vocab_size', 17)],
         'vocab_size must be at least that of the data, 17, got 16'),
        ('memory',
         [('model.num_chunks', 3), ('model.chunk_length', 9),
          ('data.markov.length', 27)],
         'rows of the data must be even to be copied, .* got 27 tokens'),
        ('memory', [('model.encoder.entropy.patch_size', 9)],
         "at most the length of a row, 8 in 'train', got 9"),
        ('memory', [('mesh.data', 3)], 'does not fit 1 device'),
        ('memory', [('frozen', ['^encodr/'])],
         "frozen: '.encodr/' matches no parameter; the paths are: decoder/"),
        ('memory', [('frozen', ['^encoder/', 'decoder', 'slot'])],
         'frozen must leave something to train'),
        ('memory', [('frozen', ['^encoder/']), ('objective.method', 'mbe')],
         "objective.method must be 'ce' where all of the encoder is frozen"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_compiled(
    name, changes, message
):
  cfg = config_lib.from_dict(changed(name, *changes))
  with pytest.raises(ValueError, match=message):
    loop.prepare(cfg, jax.devices()[:1])


def test_another_blank_may_be_given():
  for change in (
      ('task.blank_id', 3),
      ('task', dict(kind='combined', copying='copy')),
  ):
    tree = changed('memory', ('data.markov.vocab_size', 16), change)
    loop.prepare(config_lib.from_dict(tree), jax.devices()[:1])


def matrices():
  """Of one block: four attention maps and two of the MLP."""
  width, hidden = 16, 32
  return 4 * width**2 + 2 * width * hidden


def attention(length):
  """Multiply-adds of scores and mixing: query t sees t + 1 keys."""
  return 2 * 16 * length * (length + 1) // 2


def test_what_an_autoencoder_needs():
  cfg = config_lib.from_dict(tiny_families.small('autoencoder'))
  program = program_lib.Program(cfg, jax.devices()[:1])
  report = compile_report.make_report(cfg, program, tiny_families.CHUNK)
  table, unroll = 16 * 16, 8 * 16
  assert report['parameters'] == 2 * matrices() + 2 * table + unroll + 16
  assert report['tokens_per_step'] == 8 * 8
  # A row passes the encoder, the injection, the decoder and its head.
  row = 8 * (2 * matrices() + unroll + table) + 2 * attention(8)
  assert report['flops']['step'] == 3 * 2 * 8 * row
  # Nothing loops; norms, softmax and loss are more, and the first layer's
  # input needs no gradient.
  assert 0.9 < report['flops']['compiler'] / report['flops']['step'] < 1.6


def test_what_a_memory_model_needs():
  """Two tasks of the same rows: twice the work of their tokens."""
  cfg = config_lib.from_dict(tiny_families.small('memory'))
  program = program_lib.Program(cfg, jax.devices()[:1])
  report = compile_report.make_report(cfg, program, 32)
  table, places, slot = 16 * 16, 12 * 16, 16
  assert report['parameters'] == 2 * matrices() + 3 * table + places + slot
  assert report['tokens_per_step'] == 8 * 32
  # Three chunks are encoded; four windows of four slots and eight tokens.
  encoder = 3 * (8 * matrices() + attention(8))
  decoder = 4 * (12 * matrices() + attention(12)) + 4 * 8 * table
  step = 3 * 2 * 8 * 2 * (encoder + decoder)
  assert report['flops']['step'] == step
  assert 0.9 < report['flops']['compiler'] / step < 1.6


@pytest.mark.parametrize(
    'frozen, passes',
    [((), (3, 3)), (('^encoder/',), (1, 3)), (('^decoder/',), (3, 2))],
    ids=['nothing', 'encoder', 'decoder'],
)
def test_what_is_frozen_needs_less(frozen, passes):
  c = tiny_families.small('memory')
  c.task.kind = 'causal'
  c.frozen = frozen
  cfg = config_lib.from_dict(c)
  program = program_lib.Program(cfg, jax.devices()[:1])
  report = compile_report.make_report(cfg, program, 32)
  encoder = 3 * (8 * matrices() + attention(8))
  decoder = 4 * 12 * matrices() + 4 * 8 * 16 * 16
  # Attention has no weights of which a gradient could be spared.
  step = passes[0] * encoder + passes[1] * decoder + 3 * 4 * attention(12)
  step *= 2 * 8
  assert report['flops']['step'] == step
  assert 0.9 < report['flops']['compiler'] / step < 1.6


def test_padding_biases_no_mean():
  """Rows and chunks of padding count nothing, in training and evaluation."""
  c = tiny_families.small('memory')
  c.task.update(copy_weight=0.25, also_measure=())
  job = loop.prepare(config_lib.from_dict(c), jax.devices()[:1])
  batch, rng = job.source.batch(0), np.random.default_rng(0)
  shape = batch['tokens'].shape

  def kept(keep_BxT):
    """What is not kept is padding, and holds anything."""
    noise = rng.integers(0, 15, shape, dtype=np.int32)
    asked = np.pad(keep_BxT[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    return {
        **batch,
        'tokens': np.where(keep_BxT, batch['tokens'], noise),
        'targets': np.where(asked, batch['targets'], noise),
        'mask': batch['mask'] & keep_BxT,
        'segment_ids': batch['segment_ids'] * keep_BxT,
        'loss_mask': batch['loss_mask'] & asked & keep_BxT.any(1)[:, None],
    }

  everything = np.ones(shape, bool)
  upper = everything & (np.arange(8) < 4)[:, None]
  hole = everything.copy()
  hole[0, 8:16] = False  # chunk 1 of the first row
  with jax.set_mesh(job.program.mesh):
    state = tiny_families.random_state(job)
    measure = lambda keep: jax.device_get(
        job.program.eval_step(state.params, kept(keep))
    )
    whole, first, second = map(measure, (everything, upper, ~upper))
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a + b, c, rtol=1e-5),
        (first.first, first.others),
        (second.first, second.others),
        (whole.first, whole.others),
    )
    one, other = measure(hole), measure(hole)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert one.first.tokens == whole.first.tokens - 8
    assert np.isfinite(one.first.nll)
    nothing = measure(~everything)
    assert nothing.first.tokens == nothing.first.nll == 0
    _, metrics = job.program.train_step(state, kept(upper))
    mean = lambda sums: sums.nll / sums.tokens
    np.testing.assert_allclose(
        metrics['train/cross_entropy'],
        mean(first.first) + 0.25 * mean(first.others['blank_copy']),
        rtol=1e-5,
    )
    state = tiny_families.random_state(job)
    state, metrics = job.program.train_step(state, kept(~everything))
    assert metrics['train/cross_entropy'] == 0
    for leaf in jax.tree.leaves(state.params):
      assert np.isfinite(leaf).all()


def test_frozen_leaves_stay_and_have_no_state():
  c = tiny_families.small('autoencoder')
  c.frozen = ('^encoder/', 'unroll')
  c.optimizer.update(weight_decay=0.5, clip_norm=1e9)
  job = loop.prepare(config_lib.from_dict(c), jax.devices()[:1])
  losses = []
  with jax.set_mesh(job.program.mesh):
    state = tiny_families.random_state(job)
    before = jax.device_get(state.params)
    for k in range(20):
      batch = job.source.batch(k % 2)
      state, metrics = job.program.train_step(
          state, mesh_lib.put_batch(batch, job.program.batch_sharding)
      )
      losses.append(float(metrics['train/cross_entropy']))
      if k == 0:  # a first moment is a share of the first gradient
        moment = optax.tree_utils.tree_get(state.opt_state, 'mu')
        share = 1 - job.cfg.optimizer.b1
        assert float(optax.tree.norm(moment)) == pytest.approx(
            share * float(metrics['optim/grad_norm']), rel=1e-5
        ), 'gradients of frozen leaves are not computed'
  assert losses[-1] < losses[0] - 0.1
  after = jax.device_get(state.params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(after):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    old = functools.reduce(lambda tree, key: tree[key], name.split('/'), before)
    is_frozen = name.startswith('encoder/') or 'unroll' in name
    assert (leaf.tobytes() == old.tobytes()) == is_frozen, name
  kept = [
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
  ]
  assert not any('encoder' in name or 'unroll' in name for name in kept)
  assert sum('decoder/head/kernel' in name for name in kept) == 2  # moments


def test_few_numbers_train_a_memory_model():
  """Adapters of stacked layers under 'encoder/blocks', and of a plain map."""
  c = tiny_families.small('memory')
  c.parameterisation = dict(
      kind='sublora',
      dims=12,
      lora=dict(
          patterns=['^encoder/blocks/attention/query/kernel$', 'head/kernel$'],
          rank=1,
      ),
  )
  job = loop.prepare(config_lib.from_dict(c), jax.devices()[:1])
  made = job.program.parameterisation
  adapters = made.fixed['lora']
  query = adapters['encoder']['blocks']['attention']['query']['kernel']
  assert query['a'].shape == (1, 1, 16) and query['b'].shape == (1, 16, 1)
  assert adapters['decoder']['head']['kernel']['a'].shape == (1, 16)
  state = state_lib.TrainState(
      jnp.zeros([], jnp.int32),
      made.initial,
      program_lib.make_optimizer(job.cfg).init(made.initial),
  )
  with jax.set_mesh(job.program.mesh):
    for k in range(2):
      batch = mesh_lib.put_batch(
          job.source.batch(k), job.program.batch_sharding
      )
      state, metrics = job.program.train_step(state, batch)
  assert np.isfinite(metrics['train/loss'])
  assert np.all(np.asarray(state.params) != 0)
  trained = job.program.model_params(state.params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    old = functools.reduce(
        lambda tree, key: tree[key], name.split('/'), made.fixed['params']
    )
    adapted = 'head/kernel' in name or (
        'encoder/blocks' in name and 'query' in name
    )
    assert (not np.array_equal(leaf, old)) == adapted, name
    if 'query' in name and adapted:
      change = np.asarray(leaf - old).reshape(16, 16)
      assert np.linalg.matrix_rank(change, tol=1e-5) == 1


def two_losses(model, weight):
  """Of rows: both tasks in turn, and the mean of both entropies; by hand.

  Rows are whole, so that every mean has as many addends.
  """

  def run(params, tokens, targets, counts):
    out = memory.apply(params, tokens, model, collect='entropy')
    nll = causal.token_nll(out.logits_BxLxV, targets)
    return jnp.mean(nll[:, counts[0] : counts[1]]), out.entropy[0]

  def losses(params, tokens_BxT1):
    tokens, targets = tokens_BxT1[:, :-1], tokens_BxT1[:, 1:]
    half = tokens.shape[1] // 2
    text, entropy = run(params, tokens, targets, (0, 2 * half))
    source = tokens[:, :half]
    blanks = jnp.full_like(source, tiny_families.VOCAB - 1)
    copy, of_copy = run(
        params,
        jnp.concatenate([source, blanks], axis=1),
        # Place half - 1 asks for the first token.
        jnp.concatenate([source, source], axis=1).take(
            jnp.arange(1, 2 * half + 1), axis=1, mode='wrap'
        ),
        (half - 1, 2 * half - 1),
    )
    return text + weight * copy, (entropy + of_copy) / 2

  return losses


def both_gradients(model):
  """Jitted: (params, rows) to two losses and the gradients of both."""
  losses = two_losses(model, 0.5)

  @jax.jit
  def gradients(params, rows):
    value, pull_back = jax.vjp(lambda p: losses(p, rows), params)
    one, zero = jnp.ones([]), jnp.zeros([])
    return value, pull_back((one, zero))[0], pull_back((zero, one))[0]

  return gradients


def gapt_job():
  c = tiny_families.small('memory')
  c.task.update(copy_weight=0.5, copying='blank_copy', also_measure=())
  c.objective.update(method='gapt', weight=0.5, measure_entropy=True)
  # No step improves by half, so the phases alternate.
  c.gate = dict(patience_main=2, patience_aux=1, rtol_main=0.5, ema=0.0)
  return loop.prepare(config_lib.from_dict(c), jax.devices()[:1])


def flat(tree):
  return np.concatenate(
      [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
  )


def rows_of(batch):
  assert batch['loss_mask'].all() and batch['mask'].all()
  return np.concatenate([batch['tokens'], batch['targets'][:, -1:]], axis=1)


def test_gapt_of_two_tasks_is_a_step_written_by_hand():
  job = gapt_job()
  gradients = both_gradients(job.cfg.model)
  cfg, phases = job.cfg, []
  state = tiny_families.random_state(job)
  wanted_gate = gate.gate_init()
  gate_step = jax.jit(functools.partial(gate.gate_step, config=cfg.gate))
  first, second = 0.0, 0.0
  with jax.set_mesh(job.program.mesh):
    for k in range(6):
      batch = job.source.batch(k)
      (main, entropy), g, h = gradients(state.params, rows_of(batch))
      wanted_gate = gate_step(wanted_gate, main, entropy)
      phases.append(int(wanted_gate.phase))
      total = flat(g) + 0.5 * (phases[-1] == gate.COMPRESS) * flat(h)
      w = flat(state.params)
      state, metrics = job.program.train_step(
          state, mesh_lib.put_batch(batch, job.program.batch_sharding)
      )
      assert float(metrics['train/cross_entropy']) == pytest.approx(
          float(main), rel=1e-5
      )
      assert float(metrics['train/mbe']) == pytest.approx(
          float(entropy), rel=1e-4
      )
      assert int(metrics['gapt/phase']) == phases[-1]
      norm = np.sqrt((total**2).sum())
      assert float(metrics['optim/grad_norm']) == pytest.approx(norm, rel=1e-4)
      # AdamW without decay.
      total = total * min(1.0, cfg.optimizer.clip_norm / norm)
      b1, b2 = cfg.optimizer.b1, cfg.optimizer.b2
      first = b1 * first + (1 - b1) * total
      second = b2 * second + (1 - b2) * total**2
      m, v = first / (1 - b1 ** (k + 1)), second / (1 - b2 ** (k + 1))
      rate = float(metrics['optim/learning_rate'])
      after = w - rate * m / (np.sqrt(v) + cfg.optimizer.eps)
      # Where a gradient is about 0, Adam divides rounding by rounding.
      off = np.abs(flat(state.params) - after)
      assert np.quantile(off, 0.99) < 1e-3 * max(rate, 1e-6)
      assert off.max() <= 2 * rate + 1e-6
  assert set(phases) == {1, 2}, 'the test must see both phases'


@pytest.mark.parametrize('name', ['autoencoder', 'memory'])
def test_gradients_of_the_encoder_are_compared_by_layer(name):
  """Traced only: objectives/tasks_test.py checks numbers of such a tree."""
  c = tiny_families.small(name)
  c.objective.measure_entropy = True
  c.alignment = dict(every=1, halves=True, norm_control=True)
  job = loop.prepare(config_lib.from_dict(c), jax.devices()[:1])
  batch = jax.eval_shape(lambda: job.source.batch(0))
  with jax.set_mesh(job.program.mesh):
    _, metrics = jax.eval_shape(
        job.program.aligned_steps[0][0], job.program.abstract_state, batch
    )
  layers = {key for key in metrics if 'alignment' in key and 'layer_' in key}
  assert layers == {
      f'alignment/{kind}/layer_00'
      for kind in (
          'cosine', 'norm_main', 'norm_aux',
          *(f'halves/cosine_{pair}' for pair in ('aa', 'bb', 'ab', 'ba')),
      )
  }

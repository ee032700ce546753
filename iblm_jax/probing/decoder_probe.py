"""Probes of frozen encoders on data sources.

A fresh decoder is trained to emit a whole sequence from the one vector that the
encoder makes of it. The same decoder trained on zeros is the control: what it
gets right, no embedding needs to hold.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iblm_jax import errors, fields
from iblm_jax.data import batches as batches_lib
from iblm_jax.data import pipeline
from iblm_jax.information import entropy, fidelity
from iblm_jax.models import config as model_config
from iblm_jax.models import reconstruction
from iblm_jax.objectives import causal
from iblm_jax.probing import encoders

Encoder = encoders.Encoder
of_model = encoders.of_model
Report = Callable[[str], None]

# Embeddings whose entropy is taken.
_MEASURED = 1024


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
  """Size and training of the decoder that reads embeddings.

  Attributes:
    length: L, tokens of a sequence.
    num_layers: Blocks of the decoder.
    width: Width D of the decoder.
    num_heads: Heads of its attention, or of its mixing.
    injection: How the vector enters, see `ReconstructionConfig`; 'repeat' takes
      a masked mixer.
    num_steps: Updates.
    batch_size: Sequences of an update.
    peak: Largest learning rate.
    seed: Seed of the decoder's initial parameters.
    num_eval: Most held-out sequences that are read.

  Raises:
    ValueError: A value is not a positive number, or `injection` is unknown.
  """

  length: int = fields.field(above=0)
  num_layers: int = fields.field(2, above=0, high=2**10)
  width: int = fields.field(64, above=0, high=2**16)
  num_heads: int = fields.field(4, above=0, high=2**16)
  injection: str = fields.field('unroll', choices=reconstruction.INJECTIONS)
  num_steps: int = fields.field(2000, above=0)
  batch_size: int = fields.field(64, above=0, high=2**20)
  peak: float = fields.field(3e-3, above=0)
  seed: int = 0
  num_eval: int = fields.field(2048, above=0)

  def __post_init__(self):
    fields.check(self)
    if self.num_steps >= 2**31:  # optimizers count in 32 bits
      raise ValueError(f'num_steps must be < 2**31, got {self.num_steps}.')

  def decoder(self, vocab_size: int) -> model_config.DecoderConfig:
    """The config of the decoder's blocks."""
    sizes: dict[str, Any] = dict(
        width=self.width, num_layers=self.num_layers, scan_layers=False
    )
    if self.injection == 'repeat':
      return model_config.mixer(
          vocab_size, self.length, num_heads=self.num_heads, **sizes
      )
    # Learned places, so that the control can tell them apart as well: what
    # stands where in every text is nothing that an embedding holds.
    return model_config.llama(
        vocab_size,
        num_heads=self.num_heads,
        positions='learned',
        max_length=self.length,
        **sizes,
    )


def probe(
    encoder: Encoder,
    train: batches_lib.Source,
    heldout: batches_lib.Source,
    cfg: ProbeConfig,
    report: Report = lambda line: None,
    control: Mapping[str, float] | None = None,
) -> dict[str, float]:
  """Trains a decoder on an encoder's embeddings, and one on zeros.

  Args:
    encoder: What is probed.
    train: Rows of at least `cfg.length` tokens, which are cut into sequences.
    heldout: Rows of the same language, never trained on.
    cfg: Size and training of the decoder.
    report: Receives lines about the progress.
    control: `control_of` an earlier result with the same data and config, which
      spares the training of the control.

  Returns:
    'cross_entropy' (nats per token) and 'accuracy' on held-out sequences;
    'constant/cross_entropy' and 'constant/accuracy' of the control;
    'recovered_bits' of a sequence beyond the control, 'recovered_fraction' of
    the control's cross-entropy, 'information_fraction' (1 - CE / ln V); 'mbe'
    and 'mbe/order_2', entropies in nats of the embeddings of up to 1,024
    sequences; 'tokens', counted in all, and 'num_tokens' of a mean sequence.

  Raises:
    ValueError: The rows cannot be cut into the sequences that are needed, or
      (`errors.BadData`) an embedding is not finite.
    FloatingPointError: The training of a decoder diverges.
  """
  check_rows(train, heldout, cfg)
  # Once, and not at every step.
  encoder = encoder._replace(params=jax.device_put(encoder.params))
  if control is None:
    report('control: the same decoder without embeddings')
    zero = encoder._replace(
        embed=lambda *args: jnp.zeros_like(encoder.embed(*args))
    )
    control = _train(zero, train, heldout, cfg, report)
  report('probe')
  found = _train(encoder, train, heldout, cfg, report)
  bits = fidelity.recovered_bits(
      control['cross_entropy'], found['cross_entropy'], found['num_tokens']
  )
  fraction = fidelity.recovered_fraction(
      control['cross_entropy'], found['cross_entropy']
  )
  return {
      **found,
      'constant/cross_entropy': control['cross_entropy'],
      'constant/accuracy': control['accuracy'],
      'recovered_bits': float(bits),
      'recovered_fraction': float(fraction),
      'information_fraction': float(
          fidelity.information_fraction(
              found['cross_entropy'], encoder.vocab_size
          )
      ),
  }


def control_of(found: Mapping[str, float]) -> dict[str, float]:
  """Takes the part of a result that serves other encoders of the same data."""
  return {
      name: found[f'constant/{name}'] for name in ('cross_entropy', 'accuracy')
  }


def check_rows(
    train: batches_lib.Source, heldout: batches_lib.Source, cfg: ProbeConfig
) -> None:
  """ValueError unless rows can be cut into the sequences that are needed."""
  if train.length < cfg.length:
    raise ValueError(
        f'length must be at most that of the rows, {train.length}, got'
        f' {cfg.length}.'
    )
  rows = heldout.batch_size * (heldout.num_eval_batches or math.inf)
  held = rows * (heldout.length // cfg.length)
  if held < cfg.batch_size:
    raise ValueError(
        f'batch_size must be at most {held}, sequences of {cfg.length} tokens'
        f' that the held-out rows give, got {cfg.batch_size}.'
    )


def width_of(encoder: Encoder, length: int) -> int:
  """Returns E of an encoder's vectors; nothing is compiled.

  Raises:
    ValueError: The model's states cannot be read, see `families.encode`.
  """
  return jax.eval_shape(
      encoder.embed,
      encoder.params,
      jax.ShapeDtypeStruct((1, length), jnp.int32),
      jax.ShapeDtypeStruct((1, length), jnp.bool_),
  ).shape[-1]


def sequences(
    iterator: Iterator[batches_lib.Batch], cfg: ProbeConfig
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Cuts rows into tokens and masks [batch_size, L]; rests are left out."""
  held = [np.zeros([0, cfg.length], np.int32), np.zeros([0, cfg.length], bool)]
  for batch in iterator:
    count = batch['tokens'].shape[1] // cfg.length
    for i, name in enumerate(('tokens', 'mask')):
      whole = batch[name][:, : count * cfg.length]
      pieces = whole.reshape(-1, cfg.length)
      held[i] = np.concatenate([held[i], pieces])
    while len(held[0]) >= cfg.batch_size:
      yield held[0][: cfg.batch_size], held[1][: cfg.batch_size]
      held = [array[cfg.batch_size :] for array in held]


def _train(encoder, train, heldout, cfg, report) -> dict[str, float]:
  """Trains one decoder and evaluates it."""
  decoder = reconstruction.ReconstructionConfig(
      cfg.decoder(encoder.vocab_size),
      cfg.length,
      width_of(encoder, cfg.length),
      cfg.injection,
  )
  warmup = max(1, cfg.num_steps // 20)
  rate = optax.warmup_cosine_decay_schedule(
      0.0, cfg.peak, warmup, max(cfg.num_steps, warmup + 1)
  )
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

  def sums(params, e_BxE, tokens_BxL, mask_BxL):
    logits_BxLxV = reconstruction.apply(params, e_BxE, decoder)
    return causal.token_sums(logits_BxLxV, tokens_BxL, mask_BxL)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, frozen, tokens_BxL, mask_BxL):
    e_BxE = jax.lax.stop_gradient(encoder.embed(frozen, tokens_BxL, mask_BxL))

    def loss(params):
      found = sums(params, e_BxE, tokens_BxL, mask_BxL)
      return found.nll / jnp.maximum(found.tokens, 1.0)

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state, value

  @jax.jit
  def evaluate(params, frozen, tokens_BxL, mask_BxL):
    e_BxE = encoder.embed(frozen, tokens_BxL, mask_BxL)
    return sums(params, e_BxE, tokens_BxL, mask_BxL), e_BxE

  report(
      f'compiling, then {cfg.num_steps} steps of {cfg.batch_size} sequences of'
      f' {cfg.length} tokens'
  )
  params = reconstruction.init(jax.random.key(cfg.seed), decoder)
  state = tx.init(params)
  iterator = pipeline.make_iterator(train)
  every, value = max(1, cfg.num_steps // 10), 0.0
  for k, (tokens, mask) in zip(
      range(cfg.num_steps), sequences(iterator, cfg), strict=False
  ):
    params, state, value = step(params, state, encoder.params, tokens, mask)
    if (k + 1) % every == 0:
      report(f'step {k + 1}/{cfg.num_steps} | loss {float(value):.4f}')
    if (k + 1) % every == 0 or k + 1 == cfg.num_steps:
      if not math.isfinite(value):  # and so it stays
        iterator.close()
        _blame(encoder, train, cfg, k + 1, 'training')
  iterator.close()

  total, kept = None, []
  iterator = pipeline.make_iterator(heldout)
  batches = math.ceil(cfg.num_eval / cfg.batch_size)
  for _, (tokens, mask) in zip(
      range(batches), sequences(iterator, cfg), strict=False
  ):
    found, e_BxE = evaluate(params, encoder.params, tokens, mask)
    total = found if total is None else jax.tree.map(jnp.add, total, found)
    kept.append(e_BxE)
  iterator.close()
  if not all(jnp.isfinite(e_BxE).all() for e_BxE in kept):
    _blame(encoder, heldout, cfg, batches, 'held-out')
  total = jax.device_get(total)
  e_NxE = jnp.concatenate(kept)[:_MEASURED].astype(jnp.float32)
  return {
      'cross_entropy': float(total.nll / max(total.tokens, 1.0)),
      'accuracy': float(total.correct / max(total.tokens, 1.0)),
      'tokens': float(total.tokens),
      'num_tokens': float(total.tokens / max(total.rows, 1.0)),
      **{name: float(value) for name, value in _entropies(e_NxE).items()},
  }


def _blame(encoder, source, cfg, num_batches, name) -> NoReturn:
  """Says which vector is not finite, or that training diverged."""
  embed = jax.jit(encoder.embed)
  iterator = pipeline.make_iterator(source)
  for _, (tokens, mask) in zip(
      range(num_batches), sequences(iterator, cfg), strict=False
  ):
    e_BxE = jnp.isfinite(embed(encoder.params, tokens, mask))
    bad_B = np.asarray(~e_BxE.all(axis=-1))
    if bad_B.any():
      iterator.close()
      row = int(bad_B.argmax())
      raise errors.BadData(
          f'embeddings must be finite, but that of the {name} sequence'
          f' {tokens[row][mask[row]].tolist()!r:.80} is not.'
      )
  iterator.close()
  raise FloatingPointError(
      f'the loss of the decoder is not finite: peak={cfg.peak} may be too'
      ' large.'
  )


@jax.jit
def _entropies(e_NxE) -> dict[str, jax.Array]:
  """Matrix-based entropy of embeddings about their mean, nats."""
  return {
      'mbe': entropy.matrix_entropy(e_NxE, alpha=1.0, center=True),
      'mbe/order_2': entropy.matrix_entropy(e_NxE, alpha=2.0, center=True),
  }

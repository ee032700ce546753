"""Curves over the budget of a probe: how much is found with how much training.

What a vector holds does not change with the decoder that reads it; what is
found does. A curve tells a vector that holds little from one that is hard to
read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.data import batches, pipeline
from iblm_jax.probing import decoder_probe as probing


def over_budgets(
    encoders: Mapping[str, probing.Encoder],
    train: batches.Source,
    heldout: batches.Source,
    cfg: probing.ProbeConfig,
    budgets: Sequence[int],
    report: probing.Report = lambda line: None,
) -> list[dict[str, Any]]:
  """Probes every encoder with every budget, a new decoder each time.

  A budget has a learning rate of its own, from warm-up to zero, so that each
  point is the end of a training. The control of a budget serves all encoders.

  Args:
    encoders: At least one, by what they are called, of vectors of one width.
    train: See `decoder_probe.probe`, as for the next two.
    budgets: Numbers of updates, in place of `cfg.num_steps`.
    report: Receives lines about the progress.

  Returns:
    A row for each budget and encoder, in the order of a loop over budgets
    around one over encoders: 'encoder', 'num_steps', 'num_sequences' (that
    training read, repetitions included) and what `decoder_probe.probe` returns.

  Raises:
    ValueError: As `decoder_probe.probe`.
    FloatingPointError: The training of a decoder diverges.

  Example:
    >>> over_budgets({'head': encoder}, train, heldout, cfg,
    ...              (100, 400))  # doctest: +SKIP
  """
  rows, several = [], len(budgets) * len(encoders) > 1
  for num_steps in budgets:
    own = dataclasses.replace(cfg, num_steps=num_steps)
    control = None
    for name, encoder in encoders.items():
      if several:
        report(f'{name}, {num_steps} steps')
      found = probing.probe(encoder, train, heldout, own, report, control)
      control = probing.control_of(found)
      row = {
          'encoder': name,
          'num_steps': num_steps,
          'num_sequences': num_steps * cfg.batch_size,
      }
      rows.append(row | found)
  return rows


def standardised(
    encoder: probing.Encoder,
    train: batches.Source,
    cfg: probing.ProbeConfig,
    num_rows: int = 1024,
) -> probing.Encoder:
  """Centres and scales every coordinate of an encoder's vectors.

  A few coordinates of a residual stream are a thousand times as large as the
  others, and no decoder learns to read past them. What a vector holds stays:
  the map is the same for all, and can be undone.

  Args:
    train: Rows; the first ones give mean and standard deviation.
    num_rows: Sequences that they are taken over.
  """
  embed = jax.jit(encoder.embed)
  iterator, found = pipeline.make_iterator(train), []
  for tokens, mask in probing.sequences(iterator, cfg):
    found.append(embed(encoder.params, tokens, mask).astype(jnp.float32))
    if len(found) * cfg.batch_size >= num_rows:
      break
  iterator.close()
  e_NxE = jnp.concatenate(found)
  mean_E, std_E = e_NxE.mean(axis=0), e_NxE.std(axis=0)
  std_E = jnp.where(std_E > 1e-6 * jnp.abs(mean_E), std_E, 1.0)

  def scaled(params, tokens_BxL, mask_BxL):
    of_model, mean_E, std_E = params
    e_BxE = encoder.embed(of_model, tokens_BxL, mask_BxL)
    return (e_BxE.astype(jnp.float32) - mean_E[None]) / std_E[None]

  params = (encoder.params, mean_E, std_E)
  return probing.Encoder(scaled, params, encoder.vocab_size)

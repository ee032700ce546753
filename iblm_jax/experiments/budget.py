"""Prints the addends of the paper's bound: what a code may cost, before a run.

  python -m iblm_jax.experiments.budget [--numbers=50000] [--units=8009762]

By default for GPT-2 small on OpenWebText as published (arXiv 2312.17173):
d = 50,000 coded numbers, 11 levels, m = 8,009,762 documents of which 10,000 are
scored, V = 50,257. The code is taken at its longest, log2 of the levels for
each number; a trained vector is peaked and takes less. No model is needed: all
addends but the empirical risk are known before anything is trained.
"""

import inspect
import math
from typing import Any

from absl import flags

from iblm_jax import bounds, cli
from iblm_jax.bounds import smoothing

_TABLE_BITS = 16


def main() -> None:
  """Prints a table with a line for each α, and what the code may cost."""
  with cli.refusing():
    values: dict[str, Any] = flags.FLAGS.flag_values_dict()
    lines = report(**{name: values[name] for name in _NAMES})
  for line in lines:
    cli.report(line)


def code_bits(
    numbers: int,
    levels: int,
    bits_per_number: float | None,
    search_bits: float = 0.0,
) -> dict[str, float]:
  """An upper estimate of a code's length before there is one, in bits.

  Args:
    bits_per_number: Entropy of the symbols; None for the most, log2(L).

  Returns:
    'numbers', 'codebook' (L float16), 'prefix' and 'search'.

  >>> parts = code_bits(50_000, 11, None)
  >>> {name: round(bits) for name, bits in parts.items()}
  {'numbers': 172972, 'codebook': 176, 'prefix': 35, 'search': 0}
  """
  for name, value, low in (('numbers', numbers, 1), ('levels', levels, 2)):
    if value < low:
      raise ValueError(f'{name} must be >= {low}, got {value}.')
  most = math.log2(levels)
  each = most if bits_per_number is None else bits_per_number
  if not 0 < each <= most:
    raise ValueError(
        f'bits_per_number must lie in (0, log2(levels) = {most:.3f}], got'
        f' {bits_per_number}.'
    )
  symbols = math.ceil(numbers * each)
  payload = symbols + levels * _TABLE_BITS
  return {
      'numbers': float(symbols),
      'codebook': float(levels * _TABLE_BITS),
      'prefix': float(bounds.prefix_bits(payload) - payload),
      'search': float(search_bits),
  }


def addends(
    *,
    bits: float,
    units: int,
    scored: int,
    vocab_size: int,
    risk: float,
    delta: float,
    alphas: tuple[float, ...] = smoothing.ALPHAS,
) -> list[dict[str, Any]]:
  """The subsampled bound for each α, addend by addend, in bits per token.

  Args:
    alphas: Of the smoothing; the choice among them is paid for.

  Returns:
    For each α: 'alpha', 'width' of the losses, 'complexity', 'resampling',
    'bound', 'reference' (the same sum as the paper's public code computes it)
    and 'affordable', the most bits with which the bound says something.
  """
  found = []
  for alpha in alphas:
    width = bounds.smooth_range(alpha, vocab_size).delta
    bound = bounds.occam_subsample(
        risk, bits, units, scored, width, delta / 2, delta / 2, len(alphas)
    )
    found.append({
        'alpha': alpha,
        'width': width,
        'complexity': bound.terms['complexity'],
        'resampling': bound.terms['resampling'],
        'bound': float(bound),
        'reference': float(
            bounds.occam_subsample_ref(
                risk, bits, units, scored, width, delta
            )
        ),
        'affordable': bounds.max_code_bits(
            vocab_size, alpha, risk, units, scored, delta / 2, delta / 2,
            n_alpha=len(alphas),
        ),
    })
  return found


def report(
    *,
    numbers: int,
    levels: int,
    bits_per_number: float | None,
    units: int,
    scored: int,
    vocab_size: int,
    risk: float,
    delta: float,
    search_bits: float,
) -> list[str]:
  """The program's output, a line at a time; see the flags."""
  parts = code_bits(numbers, levels, bits_per_number, search_bits)
  total = math.fsum(parts.values())
  lines = [
      f'code: {total:,.0f} bits = '
      + ' + '.join(f'{bits:,.0f} ({name})' for name, bits in parts.items()),
      f'm = {units:,} documents, {scored:,} scored, V = {vocab_size:,},'
      f' delta = {delta:g}, guessing {math.log2(vocab_size):.3f} bits per'
      f' token, empirical risk (smoothed) taken as {risk:g}',
      '   alpha  width  complexity  resampling   bound  reference'
      '  affordable bits',
  ]
  for row in addends(
      bits=total, units=units, scored=scored, vocab_size=vocab_size, risk=risk,
      delta=delta,
  ):
    lines.append(
        f'{row["alpha"]:8g} {row["width"]:6.2f} {row["complexity"]:11.4f}'
        f' {row["resampling"]:11.4f} {row["bound"]:7.3f}'
        f' {row["reference"]:10.3f} {row["affordable"]:16,.0f}'
    )
  return lines


_NAMES = tuple(inspect.signature(report).parameters)


def run() -> None:
  """Entry point."""
  flags.DEFINE_integer('numbers', 50_000, 'Coded numbers, d.')
  flags.DEFINE_integer('levels', 11, 'Levels of the quantiser.')
  flags.DEFINE_float(
      'bits_per_number', None, 'Entropy of the symbols; default: the most.'
  )
  flags.DEFINE_integer('units', 8_009_762, 'Training documents, m.')
  flags.DEFINE_integer('scored', 10_000, 'Documents scored, n.')
  flags.DEFINE_integer('vocab_size', 50_257, 'V.')
  flags.DEFINE_float(
      'risk', 10.3, 'Empirical risk in bits per token to add the terms to.'
  )
  flags.DEFINE_float('delta', 0.05, 'Probability that the claim fails.')
  flags.DEFINE_float('search_bits', 8.0, 'Declared for hyperparameters.')
  cli.run(main)


if __name__ == '__main__':
  run()

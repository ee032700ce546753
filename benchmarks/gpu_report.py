"""The table and the goals of `gpu.py`, from its figures."""

import statistics

import timing

# Goals of the project.
GAPT_OVERHEAD = 0.03
SHARE_OF_PEAK = 0.45
TORCH_RATIO = 1.0

_CE = 'cross-entropy'
_PHASES = ('GAPT, phase 1', 'GAPT, phase 2')


def verdict(
    what: str,
    value: float | None,
    limit: float,
    *,
    at_most: bool = False,
    style: str = '.1%',
    interval: tuple[float, float] | None = None,
    judged: bool = True,
) -> str:
  """One line: a figure against its goal.

  Args:
    what: the figure's name.
    value: the figure; None if it was not measured.
    limit: the goal; reaching it exactly is enough.
    at_most: whether the figure should be at most the goal, not at least.
    style: how numbers are printed.
    interval: 95 % interval of the figure.
    judged: False where the figure says nothing about the goal.

  Returns:
    The line; it ends in 'met', 'not met', 'not measured' or 'not judged'.
  """
  goal = f'goal {"at most" if at_most else "at least"} {limit:{style}}'
  if value is None:
    return f'- {what}: {goal}: not measured'
  met = value <= limit if at_most else value >= limit
  spread = ''
  if interval is not None:
    spread = f' [{interval[0]:{style}}, {interval[1]:{style}}]'
  met = ('met' if met else 'not met') if judged else 'not judged'
  return f'- {what}: {value:{style}}{spread}; {goal}: {met}'


def overhead(
    seconds: dict[str, list[float]],
) -> tuple[float, float, float] | None:
  """What GAPT adds to cross-entropy, as a share of it.

  Args:
    seconds: of each step, by round.

  Returns:
    (median over rounds of the mean of both phases over cross-entropy, less
    one; low; high), or None if a step is missing.
  """
  if not {_CE, *_PHASES} <= seconds.keys():
    return None
  pairs = zip(*(seconds[phase] for phase in _PHASES), strict=True)
  mean = [(a + b) / 2 for a, b in pairs]
  middle, low, high = timing.median_ratio(mean, seconds[_CE])
  return middle - 1, low - 1, high - 1


def text(results: dict) -> str:
  """The Markdown that ends a run: what ran where, table, goals."""
  parts = (_heading(results), _table(results), _goals(results))
  return '\n\n'.join('\n'.join(lines) for lines in parts)


def _heading(results):
  peak = results.get('peak') or {}
  lines = [
      f'{peak.get("device", "unknown device")}, driver'
      f' {results["driver"] or "unknown"}, jax {peak.get("jax", "unknown")}'
  ]
  if peak:
    sheet = peak['data_sheet']
    lines.append(
        f'Measured peak: {peak["peak"] / 1e12:,.3g} TFLOP/s ({peak["size"]}'
        ' cubed bf16 product, best of'
        f' {len(peak["seconds"])}); data sheet:'
        f' {f"{sheet / 1e12:,.0f} TFLOP/s" if sheet else "unknown chip"}'
    )
  if main := results['steps'].get('main'):
    model = main['model']
    lines.append(
        f'{main["parameters"]:,} parameters, rows of {results["length"]}'
        f' tokens, {model["dtype"]}; unless named, {model["attention"]}'
        f' attention, scan_layers={model["scan_layers"]},'
        f' remat={model["remat"]}'
    )
  return lines


def _table(results):
  lines = [
      '| step | rows | ms | tokens/s | of the measured peak | of the data'
      ' sheet | GB | ratio |',
      '|---|---|---|---|---|---|---|---|',
  ]
  for group, figures in results['steps'].items():
    for step, seconds in figures['seconds'].items():
      ratio = '1'
      if step != _CE:
        middle, low, high = timing.median_ratio(
            seconds, figures['seconds'][_CE]
        )
        ratio = f'{middle:.3f} [{low:.3f}, {high:.3f}]'
      name = step if group == 'main' else f'{group}: {step}'
      lines.append(_row(name, results, figures, seconds, ratio))
  if results['torch'] is not None:
    figures = results['torch']
    lines.append(
        _row(figures['name'], results, figures, figures['seconds'], '')
    )
  lines += ['', 'Ratio: to cross-entropy of the same model, median over rounds'
            ' with a 95 % interval.']
  return lines


def _row(name, results, figures, seconds, ratio):
  memory = figures['memory_bytes']
  rate = _rate(results, figures, seconds)
  cells = [
      name,
      f'{figures["batch"]}',
      f'{1e3 * statistics.median(seconds):.1f}',
      f'{rate:,.0f}',
      _percent(share(results, figures, seconds, 'peak')),
      _percent(share(results, figures, seconds, 'data_sheet')),
      f'{memory / 1e9:.1f}' if memory else '–',
      ratio,
  ]
  return f'| {" | ".join(cells)} |'


def _rate(results, figures, seconds):
  return figures['batch'] * results['length'] / statistics.median(seconds)


def share(
    results: dict, figures: dict, seconds: list[float], of: str
) -> float | None:
  """Model FLOP/s over 'peak' or 'data_sheet'; None where one is unknown."""
  whole = (results.get('peak') or {}).get(of)
  per_token = figures.get('flops_per_token')
  if not whole or not per_token:
    return None
  return _rate(results, figures, seconds) * per_token / whole


def _percent(value):
  return '–' if value is None else f'{value:.1%}'


def _goals(results):
  main, torch = results['steps'].get('main'), results['torch']
  judged = not results['toy']  # The goals are a GPU's.
  seconds = main['seconds'] if main else {}
  middle, low, high = overhead(seconds) or (None, 0.0, 0.0)
  lines = [
      verdict(
          'GAPT, mean of both phases, over cross-entropy', middle,
          GAPT_OVERHEAD, at_most=True, style='+.1%', interval=(low, high),
          judged=judged,
      )
  ]
  peaks = (('peak', 'measured peak'), ('data_sheet', "data sheet's peak"))
  for of, name in peaks:
    value = share(results, main, seconds[_CE], of) if main else None
    lines.append(
        verdict(
            f'cross-entropy, share of the {name}', value, SHARE_OF_PEAK,
            judged=judged,
        )
    )
  ratio, low, high, which = None, 0.0, 0.0, ''
  if main and torch:
    # Per token, so that batches of different size compare.
    ours = [s / main['batch'] for s in seconds[_CE]]
    theirs = [s / torch['batch'] for s in torch['seconds']]
    ratio, low, high = timing.ratio_of_medians(theirs, ours)
    which = f' ({torch["name"]} {torch["version"]})'
  lines.append(
      verdict(
          f"tokens/s over PyTorch's{which}", ratio, TORCH_RATIO, style='.2f',
          interval=(low, high), judged=judged,
      )
  )
  return lines

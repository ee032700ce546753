"""What a certificate says, for a person to read, a line at a time."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from iblm_jax.bounds import claims as claims_lib
from iblm_jax.certification import reading

# Options on which claims depend and of which nobody finds a trace.
_DECLARED = (
    'headline', 'search_bits', 'runs', 'sample', 'levels', 'dims', 'alphas',
    'betas', 'shortest',
)
# Letters of each thing that an author may make as long as he likes.
_MOST = 160


def describe(tree: Mapping[str, Any]) -> list[str]:
  """All claims of the content of certificate.json."""
  code, population = tree['code'], tree['population']
  headline = tree['model']['certificate']['headline']
  scored = (
      f'{population["m"]:,} units ({population["unit"]}),'
      f' {population["n"]:,} scored'
  )
  if 'unigram' in population:
    scored += (
        f'; {population["unigram"]:.4f} bits per token is the best without'
        ' context'
    )
  found = [
      f'code: {code["payload"]:,.0f} bits for {code["numbers"]:,} numbers'
      f' ({code["bits_per_number"]:.2f} each), {code["total"]:,.1f} with'
      ' prefix, choice and search',
      scored,
  ]
  for claim in tree['claims']:
    name = f'{claim["loss"]}, {claim["kind"]}'
    mark = ''
    if name == f'{claims_lib.BITS}, {headline}':
      mark = 'CERTIFIED NOTHING: ' if _is_vacuous(claim) else 'CERTIFIED '
    found.append(f'{mark}{name}: {_said(claim, tree["heldout"])}')
  return [reading.shown(line) for line in found]


def verified(tree: Mapping[str, Any]) -> list[str]:
  """The declared claim of a verified certificate, and what remains a word.

  Args:
    tree: The content of certificate.json, with the claims that follow from
      losses found here.

  Returns:
    Two lines.
  """
  declared, population = tree['model']['certificate'], tree['population']
  claim = headline(tree)
  vacuous = ', which says nothing' if _is_vacuous(claim) else ''
  claimed = (
      f'at most {rounded_up(claim["value"])} {claim["loss"]}'
      f' ({claim["kind"]}){vacuous}, except with probability delta ='
      f' {claim["delta"]:g}; {claim["trivial"]:.4f} by guessing;'
      f' m = {population["m"]:,} units, {population["n"]:,} scored'
  )
  word = '; '.join(
      reading.shown(part, _MOST) for part in _word(tree, declared)
  )
  return [reading.shown(claimed), f'the word of its author: {word}']


def headline(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The claim in bits per token whose kind was declared beforehand."""
  kind = tree['model']['certificate']['headline']
  (claim,) = (
      claim for claim in tree['claims']
      if claim['loss'] == claims_lib.BITS and claim['kind'] == kind
  )
  return claim


def rounded_up(value: float) -> str:
  """Four digits after the point, never less than the value.

  >>> rounded_up(2.41031), rounded_up(0.5)
  ('2.4104', '0.5000')
  """
  return f'{math.ceil(value * 1e4) / 1e4:.4f}'


def _is_vacuous(claim: Mapping[str, Any]) -> bool:
  return claim['value'] >= claim['trivial']


def _word(
    tree: Mapping[str, Any], declared: Mapping[str, Any]
) -> Iterator[str]:
  """What is declared, and cannot be found again."""
  config, population = tree['model'].get('config'), tree['population']
  size = population['size']
  listed = '' if size is None else f' from a list of {size:,}'
  yield f'units drawn {population["sampling"]}{listed}'
  for name in _DECLARED:
    if name in declared:  # version 0.1 had fewer
      yield f'{name} {declared[name]}'
  if config is not None:
    steps, rows = config['train']['num_steps'], config['data']['batch_size']
    yield f'{steps * rows:,} rows read in {steps:,} steps of training'
    yield from (f'{name} {value}' for name, value in _seeds(config))
    if config.get('start') is not None:
      yield (
          f'the model of SHA-256 {config["start"]["sha256"]} was made without'
          ' these units'
      )
  made = tree['made']
  if 'heldout_before_quantisation' in made:
    held = made['heldout_before_quantisation']
    yield f'{held:.4f} held out before coding'
  versions = ' '.join(f'{k} {v}' for k, v in made['versions'].items())
  device = f', on {made["device"]}' if 'device' in made else ''
  yield f'made in {made["seconds"]:,} s by {versions}{device}'
  yield f'a unit is: {population["unit"]}'
  yield f'what is bounded is the {population["average"]}'


def _seeds(tree: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Fields of a config that are called seed, with their groups."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _seeds(value, f'{path}{name}.')
    elif name == 'seed':
      yield f'{path}{name}', value


def _said(claim: Mapping[str, Any], risks: Mapping[str, Any]) -> str:
  heldout = risks.get(
      f'{claim["loss"]}, {claim["kind"]}', risks.get(claim['loss'])
  )
  vacuous = ' (vacuous)' if _is_vacuous(claim) else ''
  sure = (
      'no promise, for comparison'
      if claim['delta'] is None
      else f'with probability {1 - claim["delta"]:g}'
  )
  if claim['kind'] == claims_lib.TOKENS:
    sure += ', of these tokens in their contexts and of no new documents'
  means = [f'{claim["empirical"]:.4f} on the sample']
  if 'unseen' in claim:
    means.append(f'{rounded_up(claim["unseen"])} unseen at worst')
  if heldout is not None:
    means.append(f'{heldout:.4f} held out')
  by = 'the base' if claim['loss'] == claims_lib.EXCESS else 'guessing'
  means.append(f'{claim["trivial"]:.4f} by {by}')
  value = rounded_up(claim['value'])
  return f'at most {value}{vacuous}, {sure}; {", ".join(means)}'

"""Low-rank adapters as the package `peft` reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from iblm_jax import files
from iblm_jax.models import config as model_config
from iblm_jax.models.pretrained import (
  layout,
  tables,
  writing,
  writing_settings,
)

_WEIGHT, _BIAS = '.weight', '.bias'
# Modules of transformers 5 that are not named as in files.
_HEADS = {'embed_out.weight': 'lm_head.weight'}


def save_adapter(
    adapters: Any,
    cfg: model_config.DecoderConfig,
    out: epath.PathLike,
    *,
    rank: int,
    alpha: float,
    base: str,
    family: str | None = None,
) -> str:
  """Writes low-rank adapters as a folder that `peft.PeftModel` loads.

  Where one matrix of the family holds several of ours (queries, keys and values
  in GPT-2 and GPT-NeoX), their adapters become one of a higher rank.

  Args:
    adapters: Tree of 'a' [N, r, in] and 'b' [N, out, r] at the paths of
      matrices, see `sublora.lora_init`.
    cfg: The model whose matrices they change.
    out: The folder, empty or not there yet.
    rank: r.
    alpha: b a is scaled by alpha / r.
    base: Path of the model without adapters, as `peft` will look for it.
    family: That of the base, see `writing_settings.from_config`.

  Returns:
    The family.

  Raises:
    ValueError: An adapter is of no linear map of the family, a number is not
      finite, or `out` holds something.
  """
  kind = writing_settings.from_config(cfg, family)['model_type']
  table = tables.SAFETENSORS[kind]
  modules, tensors = {}, {}
  for name, parts in _by_module(adapters, table).items():
    modules[name.split('{n}.')[-1]] = len(parts)
    for n, full in enumerate(_names(name, cfg)):
      a, b = _matrices(name, n if '{n}' in name else None, parts, table, cfg)
      key = f'base_model.model.{writing.full_name(kind, full)}.lora_'
      for letter, array in (('A', a), ('B', b)):
        tensors[f'{key}{letter}.weight'] = writing.Written(
            array.shape, 'float32', lambda array=array: array
        )
  several = {name: count for name, count in modules.items() if count > 1}
  settings = {
      'peft_type': 'LORA',
      'task_type': 'CAUSAL_LM',
      'base_model_name_or_path': base,
      'r': rank,
      'lora_alpha': alpha,
      'target_modules': sorted(modules),
      'rank_pattern': {name: n * rank for name, n in several.items()},
      'alpha_pattern': {name: n * alpha for name, n in several.items()},
      # Whether maps are stored as [in, out].
      'fan_in_fan_out': kind == 'gpt2',
      'lora_dropout': 0.0,
      'bias': 'none',
      'inference_mode': True,
  }
  with files.new_folder('out', out) as folder:
    writing.write_tensors(folder, 'adapter_model', tensors)
    files.write_json(folder / 'adapter_config.json', settings)
  return kind


def _names(name: str, cfg) -> list[str]:
  entry = layout.Entry('', name, '')
  return layout.their_names(entry, cfg.num_layers)


def _by_module(adapters, table) -> dict[str, list[tuple[layout.Entry, Any]]]:
  """Adapters by the linear map of the family that they change."""
  found = layout.by_path(adapters)
  entries = {entry.path: entry for entry in table}
  modules: dict[str, list[tuple[layout.Entry, Any]]] = {}
  for path in sorted({name.rpartition('/')[0] for name in found}):
    entry = entries.get(path)
    if entry is None or not path.endswith('/kernel'):
      raise ValueError(f'{path} has an adapter and is no linear map there.')
    pair = (found[f'{path}/a'], found[f'{path}/b'])
    name = _HEADS.get(entry.name, entry.name).removesuffix(_WEIGHT)
    modules.setdefault(name, []).append((entry, pair))
  return modules


def _matrices(
    name: str,
    n: int | None,
    parts: Sequence[tuple[layout.Entry, Any]],
    table: Sequence[layout.Entry],
    cfg: model_config.DecoderConfig,
) -> tuple[np.ndarray, np.ndarray]:
  """A [r, in] and B [out, r] of one map of theirs."""
  own = lambda leaf: np.asarray(leaf if n is None else leaf[n], np.float32)
  pairs = [(entry.part, own(a), own(b)) for entry, (a, b) in parts]
  if pairs[0][0] is None:
    return pairs[0][1:]
  # What is added to an output is laid out as its bias.
  held = [entry for entry in table if entry.name == name + _BIAS]
  width, columns = cfg.num_heads * cfg.head_width, []
  for part, _, b in pairs:
    for column in b.T:
      added = np.zeros([len(held), width], np.float32)
      added[part] = column
      columns.append(_laid_out(held, added, cfg))
  return np.concatenate([a for _, a, _ in pairs]), np.stack(columns, axis=1)


def _laid_out(held, added, cfg) -> np.ndarray:
  heads = (cfg.num_heads, cfg.head_width)
  return layout.to_theirs(
      [(entry, added[entry.part].reshape(heads)) for entry in held], cfg
  )

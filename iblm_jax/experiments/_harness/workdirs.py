"""What lies in the folder of an experiment: its settings, and JSON files."""

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath


def check_settings(settings: Mapping[str, Any], workdir: epath.Path) -> None:
  """Makes sure that a workdir holds this experiment or none.

  Args:
    settings: JSON tree of what the numbers depend on.
    workdir: may be missing; settings.json in it says what it holds.

  Raises:
    ValueError: if it holds something else, naming what differs.
  """
  path = workdir / 'settings.json'
  if not path.exists():
    if (workdir / 'parts').exists() or (workdir / 'results.json').exists():
      raise ValueError(
          f'{workdir} holds results without settings.json, so they may be'
          ' results of something else. Use another workdir.'
      )
    return
  held = json.loads(path.read_text())
  here = json.loads(json.dumps(settings))
  changed = sorted(
      name for name in held | here if held.get(name) != here.get(name)
  )
  if changed:
    raise ValueError(
        f'{workdir} holds results with other settings ({", ".join(changed)}).'
        ' Use another workdir, or its flags to go on.'
    )


def write_json(path: epath.Path, tree: Any) -> None:
  """Writes a file whole or not at all."""
  draft = path.parent / f'{path.name}.{os.getpid()}.tmp'
  draft.write_text(json.dumps(tree))
  draft.replace(path)

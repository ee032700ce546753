"""Checks that a model and its data fit together, before anything compiles."""

from iblm_jax.data import batches
from iblm_jax.models import families
from iblm_jax.training import options


def check_data(
    cfg: options.RunConfig, splits: dict[str, batches.Source]
) -> None:
  """Makes sure that the model can read every split of the data.

  Raises:
    ValueError: It cannot; the message names the option and the split.
  """
  for name, split in splits.items():
    vocab = cfg.model.vocab_size
    if split.vocab_size > vocab:
      raise ValueError(
          'model.vocab_size must be at least that of the data,'
          f' {split.vocab_size}, got {vocab}.'
      )
    if cfg.task.has_blanks and cfg.task.blank_id is None:
      if split.vocab_size == vocab:
        raise ValueError(
            'model.vocab_size must be more than that of the data,'
            f' {split.vocab_size}: its last token is the blank. Or give a'
            ' task.blank_id that no text holds.'
        )
    copies = {'copy', 'blank_copy'} & set(cfg.task.views)
    if copies and split.length % 2:
      raise ValueError(
          'rows of the data must be even to be copied, as task asks, got'
          f' {split.length} tokens in {name!r}.'
      )
    fixed, longest, measured = families.lengths(cfg.model)
    if fixed is not None and split.length != fixed:
      raise ValueError(
          f'rows of the data must have {fixed} tokens, as the model has, got'
          f' {split.length} in {name!r}.'
      )
    length = measured or split.length
    patch_size = families.entropy_of(cfg.model).patch_size
    if families.num_layers(cfg.model) and patch_size > length:
      raise ValueError(
          'model.entropy.patch_size must be at most the length of a row,'
          f' {length} in {name!r}, got {patch_size}.'
      )
    if longest is not None and split.length > longest:
      raise ValueError(
          f'model.max_length must be at least {split.length}, the length of a'
          f' row in {name!r}, got {longest}.'
      )

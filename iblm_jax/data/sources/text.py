"""Text files, tokenised and packed into rows when a run begins."""

from collections.abc import Mapping

from iblm_jax.data import identity, kinds
from iblm_jax.data.text import files, folders, packing, tokenizers

TextConfig = files.TextConfig


def make_tokenizer(options: TextConfig) -> tokenizers.Tokenizer:
  """Returns the tokenizer that the options name."""
  return tokenizers.load_tokenizer(options.tokenizer)


def make_sources(
    options: TextConfig,
    splits: tuple[str, ...],
    *,
    batch_size: int,
    seed: int,
) -> Mapping[str, packing.PackedText]:
  """Reads the corpus once and packs the documents of each split.

  Raises:
    ValueError: A file or the tokenizer cannot be used, or the text does not
      fill one row.
  """
  tokenizer = make_tokenizer(options)
  documents = files.read_documents(options)
  train, validation = files.split_documents(
      documents, options.holdout, options.holdout_by
  )
  sides = {'train': train, 'validation': validation}
  return {
      split: packing.pack_text(
          sides[split],
          tokenizer,
          seq_len=options.seq_len,
          batch_size=batch_size,
          seed=seed,
          train=split == 'train',
          eval_rows=options.eval_rows,
      )
      for split in splits
  }


kinds.register(
    kinds.Kind(
        'text',
        TextConfig,
        make_sources,
        split_names=lambda options: ('train', 'validation')[
            : 2 if options.holdout else 1
        ],
        row_length=lambda options: options.seq_len,
        make_tokenizer=make_tokenizer,
        identity=lambda options: identity.of_files(
            folders.find_files(options.paths)
        ),
        tokenizer_file=lambda options: (
            None
            if options.tokenizer in tokenizers.BUILT_IN
            else options.tokenizer
        ),
    )
)

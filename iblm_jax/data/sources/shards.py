"""Files of tokens, as `iblm_jax.data.prepare` writes them."""

from collections.abc import Mapping

from iblm_jax.data import identity, kinds
from iblm_jax.data.shards import source

ShardsConfig = source.ShardsConfig


def make_sources(
    options: ShardsConfig,
    splits: tuple[str, ...],
    *,
    batch_size: int,
    seed: int,
) -> Mapping[str, source.ShardSource]:
  """Opens the files and returns the rows of each split.

  Raises:
    ValueError: A file is missing or damaged, none is as long as a row, or the
      index beside the files says something else than the options.
  """
  source.check_index(options)
  shards = source.open_shards(options)
  return {
      split: source.ShardSource(
          shards[split],
          seq_len=options.seq_len,
          eot_id=options.eot_id,
          vocab_size=options.vocab_size,
          batch_size=batch_size,
          seed=seed,
          train=split == 'train',
          eval_rows=options.eval_rows,
      )
      for split in splits
  }


kinds.register(
    kinds.Kind(
        'shards',
        ShardsConfig,
        make_sources,
        split_names=lambda options: ('train', 'validation')[
            : 2 if options.validation else 1
        ],
        row_length=lambda options: options.seq_len,
        make_tokenizer=source.make_tokenizer,
        identity=lambda options: identity.of_files(
            sum(source.find_files(options).values(), []), sampled=True
        ),
        tokenizer_file=source.tokenizer_file,
    )
)

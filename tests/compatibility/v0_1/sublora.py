"""A vector that is projected onto the adapters of a decoder, on text."""

from ml_collections import config_dict


def get_config():
  return config_dict.ConfigDict(dict(
      model=dict(
          vocab_size=259, num_layers=1, width=8, num_heads=1,
          activation='gelu', positions='learned', max_length=16,
          scan_layers=False),
      parameterisation=dict(
          kind='sublora', dims=(4, 4), lora=dict(rank=2)),
      data=dict(
          kind='text', batch_size=4,
          text=dict(
              paths='tests/compatibility/v0_1/text.txt', documents='paragraph',
              holdout=0.3, tokenizer='bytes', seq_len=16, eval_rows=4)),
      objective=dict(
          method='ce', measure_entropy=False, skip_first=0, skip_last=0),
      optimizer=dict(
          weight_decay=0.0,
          schedule=dict(name='constant', peak=1e-2, warmup_steps=2)),
      train=dict(
          num_steps=8, log_every=2, eval_every=4, checkpoint_every=4)))

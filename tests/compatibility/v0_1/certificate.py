"""A certificate of twelve numbers about a list of 72 words."""

from ml_collections import config_dict


def get_config():
  return config_dict.ConfigDict(dict(
      model=dict(
          vocab_size=27, num_layers=1, width=8, num_heads=1,
          activation='relu2', positions='rotary', tie_embeddings=False,
          document_mask=False, scan_layers=False,
          entropy=dict(patch_size=4)),
      data=dict(
          kind='words', batch_size=8, eval_units=8,
          words=dict(
              path='tests/compatibility/v0_1/words.txt', num_train=60,
              length=8)),
      objective=dict(
          method='ce', measure_entropy=False, skip_first=0, skip_last=0),
      optimizer=dict(
          weight_decay=0.0, schedule=dict(peak=0.1, warmup_steps=0)),
      parameterisation=dict(kind='subspace', dims=(3, 4), entries='sign'),
      train=dict(num_steps=6, log_every=3, checkpoint_every=3),
      certificate=dict(
          levels=(3, 5), tuning_steps=2, alphas=(0.05, 0.5), top_k=(1,),
          sample=40, heldout=9, search_bits=2.5)))

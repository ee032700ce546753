"""A certificate on a list of first names, each name a document.

  python -m iblm_jax.certify --config=configs/certify_names.py --workdir=DIR \
      --config.data.words.path=names.txt

As configs/certify_words.py with a twelfth of the documents, so the code must be
short. How short is searched: two subspaces are tried, and the choice is paid
for with a bit. Numbers are multiples of one step, which takes 16 bits where a
codebook takes 16 a level.
"""

from ml_collections import config_dict

from iblm_jax import config_files

VARIANTS = {
    'half': '14,700 of the 29,494 distinct names train (default)',
    'm28k': '28,000 of them train',
    'smoke': 'a check of a minute that everything runs, on the same file',
}


def get_config(variant='half'):
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  c = config_dict.ConfigDict()
  c.model = dict(
      vocab_size=27,
      num_layers=2,
      width=64,
      num_heads=2,
      activation='relu2',
      document_mask=False,
      scan_layers=False,
  )
  c.data = dict(
      kind='words',
      batch_size=128,
      words=dict(
          path='data/names.txt',
          num_train=28_000 if variant == 'm28k' else 14_700,
          length=16,
      ),
      eval_units=2048,
  )
  c.objective = dict(
      method='ce', measure_entropy=False, skip_first=0, skip_last=0
  )
  c.optimizer = dict(
      weight_decay=0.0,
      schedule=dict(name='cosine', peak=0.08, warmup_steps=50),
  )
  c.parameterisation = dict(kind='subspace', dims=(16, 16))
  c.train = dict(
      num_steps=1500, log_every=50, eval_every=500, checkpoint_every=250
  )
  c.certificate = dict(
      levels=(5,),
      dims=((24, 24), (32, 32)),
      codebook='step',
      tuning_steps=800,
      tuning_rate=0.1,
      sample=None,
      headline='log_wealth_finite',
      heldout=20_000,
      # Declared: 2^10 configurations of width, dims, rate and steps.
      search_bits=10.0,
  )
  if variant == 'smoke':
    c.model.update(width=16)
    c.data.update(batch_size=16, eval_units=64)
    c.parameterisation.dims = (8, 8)
    c.optimizer.schedule.update(warmup_steps=5)
    c.train.update(num_steps=20, log_every=10, eval_every=20)
    c.certificate.update(
        dims=(), tuning_steps=5, heldout=500
    )
  return c

"""A certificate on real text: command-line help pages in many languages.

  python -m iblm_jax.certify --config=configs/certify_text.py --workdir=DIR \
      --config.data.pages.path=tldr_all.jsonl.gz

A page with all its translations is one unit, so there are few: 7,239 in the
file of docs/data.md. Guessing costs log2 257 = 8.006 bits a byte. With so few
units the code must be short: 2,048 numbers in multiples of one step.
The pages are a finite list, and 90 % of them train, so most of the certificate
is what `counting` says without any code; `unseen` tells what is left for pages
that were not seen.
"""

from ml_collections import config_dict

from iblm_jax import config_files

VARIANTS = {
    'most': '6,500 pages train (default)',
    'half': '3,600 pages train',
    'smoke': 'a check of a minute that everything runs, on the same file',
}


def get_config(variant='most'):
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  c = config_dict.ConfigDict()
  c.model = dict(
      vocab_size=257,
      num_layers=2,
      width=64,
      num_heads=2,
      activation='relu2',
      document_mask=False,
      scan_layers=False,
  )
  c.data = dict(
      kind='pages',
      batch_size=16,
      pages=dict(
          path='data/tldr_all.jsonl.gz',
          num_train=3600 if variant == 'half' else 6500,
          length=256,
          stride=256,
      ),
      eval_units=64,
  )
  c.objective = dict(
      method='ce', measure_entropy=False, skip_first=0, skip_last=0
  )
  c.optimizer = dict(
      weight_decay=0.0,
      schedule=dict(name='cosine', peak=0.1, warmup_steps=50),
  )
  c.parameterisation = dict(kind='subspace', dims=(32, 64))
  c.train = dict(
      num_steps=1200, log_every=50, eval_every=600, checkpoint_every=300
  )
  c.certificate = dict(
      levels=(5,),
      codebook='step',
      tuning_steps=500,
      tuning_rate=0.1,
      sample=None,
      headline='log_wealth_finite',
      heldout=500,
      # Declared: 2^10 configurations of width, dims, rate and steps.
      search_bits=10.0,
  )
  if variant == 'smoke':
    c.model.update(width=16)
    c.data.update(batch_size=4, eval_units=8)
    c.data.pages.update(length=64, stride=None)
    c.parameterisation.dims = (8, 8)
    c.optimizer.schedule.update(warmup_steps=5)
    c.train.update(num_steps=20, log_every=10, eval_every=20)
    c.certificate.update(
        tuning_steps=5, sample=100, heldout=50,
        headline='log_wealth',
    )
  return c

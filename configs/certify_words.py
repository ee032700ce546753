"""A certificate on a list of English words, each word a document.

  python -m iblm_jax.certify --config=configs/certify_words.py --workdir=DIR \
      --config.data.words.path=english_words.txt.gz

A word list is a finite population: the certificate is about the mean over all
its words, of which the training set is a random subset.

Why a subspace of 4,096 numbers: for losses of a word between lo and hi the
log-wealth penalty is about (hi - R) K ln 2 / m bits per character once the code
has more than some 3,000 bits, that is 0.11 for 10,000 bits and m = 350,000, so
a longer code must earn a tenth of a bit per 10,000. Everything is scored
(`sample=None`), because a second draw of 20,000 words would cost 0.03 bits,
scoring the rest is affordable, and only so the bounds for finite lists apply.
"""

from ml_collections import config_dict

from iblm_jax import config_files

VARIANTS = {
    'half': (
        '185,000 words train and as many are held out: most of the claim is'
        ' about words that were not seen (default)'
    ),
    'm350k': (
        '350,000 of the 370,099 words train: a smaller penalty, but 95 % of'
        ' the words that the claim averages over were trained on'
    ),
    'long': (
        'as m350k, with four times the numbers: a longer code, which bounds'
        ' for finite lists can afford'
    ),
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
          path='data/english_words.txt.gz',
          num_train=350_000 if variant in ('m350k', 'long') else 185_000,
          length=32,
      ),
      eval_units=2048,
  )
  c.objective = dict(
      method='ce', measure_entropy=False, skip_first=0, skip_last=0
  )
  c.optimizer = dict(
      weight_decay=0.0,
      # A step moves the parameters by about rate * sqrt(d); 10 is too far.
      schedule=dict(
          name='cosine',
          peak=0.035 if variant == 'long' else 0.08,
          warmup_steps=100,
      ),
  )
  c.parameterisation = dict(
      kind='subspace', dims=(128, 128) if variant == 'long' else (64, 64)
  )
  c.train = dict(
      num_steps=3000, log_every=100, eval_every=1000, checkpoint_every=500
  )
  c.certificate = dict(
      levels=(7,),
      codebook='kmeans',
      tuning_steps=3000,
      tuning_rate=0.1,
      sample=None,
      headline=(
          'log_wealth_finite' if variant in ('half', 'long') else 'log_wealth'
      ),
      heldout=20_000,
      # Declared: 2^12 configurations of width, dims, rate and steps.
      search_bits=12.0,
  )
  if variant == 'smoke':
    c.model.update(width=16)
    c.data.update(batch_size=16, eval_units=64)
    c.parameterisation.dims = (8, 8)
    c.optimizer.schedule.update(warmup_steps=5)
    c.train.update(num_steps=20, log_every=10, eval_every=20)
    c.certificate.update(
        levels=(5,), tuning_steps=5, sample=2000, heldout=500
    )
  return c

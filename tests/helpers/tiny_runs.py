"""Runs of three steps on text."""

from iblm_jax import config, training

MODEL = dict(
    vocab_size=260, num_layers=2, width=16, num_heads=2, num_kv_heads=1,
    mlp_width=24, activation='swiglu', tie_embeddings=True, norm_epsilon=1e-2,
)
QUERY_VALUE = ['attention/query/kernel$', 'attention/value/kernel$']
LORA = dict(
    kind='lora', lora=dict(patterns=QUERY_VALUE, rank=2, alpha_scale=16.0)
)


def train(folder, model=None, text='the cat sat on the mat. ', **groups):
  """Trains FOLDER/run on FOLDER/a.txt; returns its folder and config."""
  (folder / 'a.txt').write_text(text * 20)
  cfg = config.from_dict(
      dict(
          model=dict(MODEL, **(model or {})),
          data=dict(
              kind='text', batch_size=4,
              text=dict(paths=f'{folder}/a.txt', seq_len=16, eval_rows=2),
          ),
          objective=dict(
              method='ce', measure_entropy=False, skip_first=0, skip_last=0
          ),
          optimizer=dict(schedule=dict(peak=0.05, warmup_steps=0)),
          train=dict(num_steps=3, checkpoint_every=1),
          mesh=dict(data=1),
          **groups,
      )
  )
  training.train(cfg, folder / 'run')
  return folder / 'run', cfg

"""Trains a model of one's own on data of one's own, from any folder."""
import dataclasses
import jax
import numpy as np
from iblm_jax import models, training

@dataclasses.dataclass(frozen=True)
class Bigram:
  vocab_size: int
init = lambda key, cfg: jax.random.normal(key, (cfg.vocab_size, cfg.vocab_size))
apply = lambda w, tokens_BxL, cfg, **_: models.Outputs(w[tokens_BxL])
models.register(models.Family('bigram', Bigram, init, apply))
rows = [{'tokens': np.arange(i, i + 9) ** 2 % 7} for i in range(64)]
cfg = dict(model=dict(family='bigram', vocab_size=7), data=dict(kind='own', batch_size=8), objective=dict(method='ce', measure_entropy=False), optimizer=dict(schedule=dict(peak=0.1)), train=dict(num_steps=200))
print(training.train(cfg, 'runs/bigram', source=rows, eval_sources={'same': rows})['eval'])

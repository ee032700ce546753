"""Samples from a checkpoint.

  python -m iblm_jax.generate --workdir=RUN --prompt=...

For a run on multiplication, the prompt is a question such as 12x34=.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from iblm_jax import cli, config
from iblm_jax.data import sources
from iblm_jax.models import decoding
from iblm_jax.training import restoring

FLAGS = flags.FLAGS


def main() -> None:
  """Restores the newest intact checkpoint and continues the prompt."""
  with cli.refusing():
    cfg = config.read_run(FLAGS.workdir)
    tokenizer = sources.make_tokenizer(cfg.data)
    prompt_T = np.concatenate(
        [[tokenizer.bos_id], tokenizer.encode(FLAGS.prompt)]
    ).astype(np.int32)
    decoding.check_sampling(
        cfg.model,
        prompt_T.size,
        FLAGS.max_tokens,
        temperature=FLAGS.temperature,
        top_k=FLAGS.top_k,
    )
  with cli.refusing():
    params = restoring.restore_params(cfg, FLAGS.workdir)
  sampled_1xT = jax.jit(
      decoding.sample,
      static_argnums=2,
      static_argnames=('num_tokens', 'temperature', 'top_k'),
  )(
      params,
      jnp.asarray(prompt_T)[None],
      cfg.model,
      jax.random.key(FLAGS.seed),
      num_tokens=FLAGS.max_tokens,
      temperature=FLAGS.temperature,
      top_k=FLAGS.top_k,
  )
  tokens = np.asarray(sampled_1xT)[0].tolist()
  if tokenizer.eos_id in tokens:
    tokens = tokens[: tokens.index(tokenizer.eos_id)]
  cli.report(FLAGS.prompt + tokenizer.decode(tokens))


def run() -> None:
  """Entry point."""
  flags.DEFINE_string('workdir', None, 'Folder of the run.')
  flags.DEFINE_string('prompt', '', 'Text to continue.')
  flags.DEFINE_integer('max_tokens', 200, 'Most tokens to add.')
  flags.DEFINE_float('temperature', 0.0, '0 takes the most likely token.')
  flags.DEFINE_integer(
      'top_k', None, 'Sample among the k most likely tokens only.'
  )
  flags.DEFINE_integer('seed', 0, 'Of the sampling.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)


if __name__ == '__main__':
  run()

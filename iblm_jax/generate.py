"""Samples from a checkpoint.

  python -m iblm_jax.generate --workdir=RUN --prompt=...

For a run on multiplication, the prompt is a question such as 12x34=. Prompt and
sampled tokens together must fit into what the model can read.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from iblm_jax import cli, config
from iblm_jax.data import kinds, sources
from iblm_jax.models import families
from iblm_jax.models.generation import full_forward
from iblm_jax.objectives import tasks
from iblm_jax.training import options, restoring

FLAGS = flags.FLAGS

_MAX_TOKENS = 200


def sampler(model: families.ModelConfig) -> families.Sampler:
  """Finds the module that samples from a model.

  Raises:
    ValueError: The model cannot generate.

  Example:
    >>> from iblm_jax import models
    >>> sampler(models.DecoderConfig(8)).__name__
    'iblm_jax.models.generation.decoding'
  """
  own = families.family(model).sampler
  return full_forward if own is None else own(model)


def tokens_of_text(cfg: options.RunConfig, vocab_size: int) -> np.ndarray:
  """Finds the tokens that a text may hold.

  Args:
    cfg: The run's config.
    vocab_size: Number of tokens of the tokenizer. The model may have more, one
      of them the blank.

  Returns:
    bool [V], where V is the model's number of tokens.
  """
  model_size = cfg.model.vocab_size
  allowed_V = np.arange(model_size) < vocab_size
  if cfg.task.has_blanks:
    allowed_V[tasks.blank(cfg.task, model_size)] = False
  return allowed_V


def main() -> None:
  """Restores the newest intact checkpoint and continues the prompt."""
  with cli.refusing():
    cfg = config.read_run(FLAGS.workdir)
    texts = kinds.names('make_tokenizer')
    if cfg.data.kind not in texts:
      raise ValueError(
          f'sampling needs a run on data of kind {" or ".join(texts)}, got'
          f' {cfg.data.kind!r}, whose tokens are no text.'
      )
    samples = sampler(cfg.model)
    tokenizer = sources.make_tokenizer(cfg.data)
    prompt_T = np.concatenate(
        [[tokenizer.bos_id], tokenizer.encode(FLAGS.prompt)]
    ).astype(np.int32)
    num_tokens = FLAGS.max_tokens
    if num_tokens is None:
      longest = families.lengths(cfg.model).longest or math.inf
      num_tokens = max(1, min(_MAX_TOKENS, longest - prompt_T.size))
    samples.check_sampling(
        cfg.model,
        prompt_T.size,
        num_tokens,
        temperature=FLAGS.temperature,
        top_k=FLAGS.top_k,
    )
  with cli.refusing():
    params = restoring.restore_params(cfg, FLAGS.workdir).params
  sampled_1xT = jax.jit(
      samples.sample,
      static_argnums=2,
      static_argnames=('num_tokens', 'temperature', 'top_k'),
  )(
      params,
      jnp.asarray(prompt_T)[None],
      cfg.model,
      jax.random.key(FLAGS.seed),
      num_tokens=num_tokens,
      temperature=FLAGS.temperature,
      top_k=FLAGS.top_k,
      allowed_V=tokens_of_text(cfg, tokenizer.vocab_size),
  )
  tokens = np.asarray(sampled_1xT)[0].tolist()
  if tokenizer.eos_id in tokens:
    tokens = tokens[: tokens.index(tokenizer.eos_id)]
  cli.report(FLAGS.prompt + tokenizer.decode(tokens))


def run() -> None:
  """Defines the flags and starts the program."""
  flags.DEFINE_string('workdir', None, 'Folder of the run.')
  flags.DEFINE_string('prompt', '', 'Text to continue.')
  flags.DEFINE_integer(
      'max_tokens',
      None,
      f'Most tokens to add; by default {_MAX_TOKENS}, or as many as the model'
      ' has room for.',
  )
  flags.DEFINE_float('temperature', 0.0, '0 takes the most likely token.')
  flags.DEFINE_integer(
      'top_k', None, 'Sample among the k most likely tokens only.'
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the sampling.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)


if __name__ == '__main__':
  run()

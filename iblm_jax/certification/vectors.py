"""Certificates of a vector of one's own, with a loss of one's own."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from etils import epath

import iblm_jax
from iblm_jax import bounds
from iblm_jax.bounds import options
from iblm_jax.certification import (
    assembly,
    comparison,
    quantisation,
    statement,
)
from iblm_jax.certification.certificate import Certificate
from iblm_jax.certification.scoring import Report, quiet
from iblm_jax.certification.vector_subject import (
  NllBits,
  Population,
  make_subject,
)


def certify(
    nll_bits: NllBits,
    w: npt.ArrayLike,
    documents: Sequence[Any],
    *,
    vocab_size: int,
    heldout: Sequence[Any] = (),
    population: Population = Population(),
    delta: float = 0.05,
    levels: Sequence[int] = (15,),
    codebook: str = 'kmeans',
    scheme: str = 'kt',
    alphas: Sequence[float] = bounds.ALPHAS,
    headline: str = 'log_wealth',
    sample: int | None = None,
    search_bits: float = 0.0,
    runs: int = 1,
    tune: quantisation.Tune | None = None,
    batch_size: int = 256,
    hash_document: Callable[[Any], bytes] | None = None,
    report: Report = quiet,
) -> Certificate:
  """Certifies the model that a vector stands for, on documents of one's own.

  The vector is rounded to few values, coded and decoded; the loss of what was
  decoded is measured; and every bound that these losses and the length of the
  code allow becomes a claim (arXiv 2312.17173). The code is one around 0: a
  model that is a start plus a function of `w` pays for the change alone. The
  start, the function, and every option here must be fixed before the training
  documents are seen, or be counted in `search_bits`.

  Args:
    nll_bits: Takes the decoded vector, float32 [d], and a list of documents,
      and returns for each of them the bits -log2 p of its tokens, [T] with
      T >= 1. The probabilities of a token's `vocab_size` values must add up to
      at most 1. It must be deterministic.
    w: [d] finite numbers. Training may have used `documents` in any way.
    documents: The m training documents, any objects. Everything that has been
      trained on, chosen by or looked at belongs here, and nothing else.
    vocab_size: Values that a token can take, V, at least 2. Mixing predictions
      with the uniform distribution over them bounds the losses.
    heldout: Documents that training has not seen. Their loss stands beside the
      claims and is no part of them.
    population: What the documents are drawn from, and how.
    delta: Probability that a claim fails, in (0, 1).
    levels: Numbers of quantiser levels to choose from, each in 2..4096; which
      one was taken is paid for.
    headline: The kind of bound that is meant: 'log_wealth', 'hoeffding',
      'freedman', and for a list 'log_wealth_finite' or 'serfling'. The smallest
      of several kinds would hold with less than 1 - delta.
    sample: Number of training documents that are scored, drawn with
      replacement by the hash of the code; None scores all. At most the size of
      a finite list; more than there are documents is allowed and reported.
    search_bits: log2 of the number of models, options and starts that were
      tried, this one included.
    codebook, scheme, alphas, runs: See `CertificateConfig`.
    tune: Trains the vector and the values of its levels through the rounding,
      before coding; see `quantisation.quantise`.
    batch_size: Most documents of one call of `nll_bits`.
    hash_document: Turns a document into bytes that tell it from others. By
      default documents must be made of strings, bytes, numbers and arrays.
    report: Receives lines for a person to read.

  Returns:
    The certificate. Its `headline` is the declared claim: with probability
    1 - delta over the draw of the documents the mean loss over the population
    of the decoded model, smoothed with the claim's alpha, is at most `value`.

  Raises:
    ValueError: An argument is out of its range, or what `nll_bits` returns is
      not of its form.
    ImportError: The extra 'certify' is not installed.

  Example:
    A loaded coin that lands on tails four times in five, and a model with one
    number: the log-odds of tails.

    >>> def nll_bits(w, documents):
    ...   log_p = -np.logaddexp(0, [w[0], -w[0]]) / np.log(2)
    ...   return [-log_p[tosses] for tosses in documents]
    >>> rng = np.random.default_rng(0)
    >>> tosses = (rng.random((2000, 50)) < 0.8).astype(int)
    >>> made = certify(
    ...     nll_bits, [1.4], tosses, vocab_size=2, levels=(2,), codebook='step')
    >>> print(f'{made.headline["value"]:.3f} bits, {8 * len(made.code)} coded')
    0.777 bits, 24 coded
  """
  started = time.monotonic()
  cfg = options.CertificateConfig(
      levels=tuple(levels), codebook=codebook, scheme=scheme,
      headline=headline, delta=delta, alphas=tuple(alphas), top_k=(),
      sample=sample, search_bits=search_bits, runs=runs,
      heldout=max(len(heldout), 1),
  )
  if headline in options.FINITE_KINDS and population.size is None:
    raise ValueError(
        f'headline={headline!r} is for a part of a finite list, got'
        f' population={population!r}.'
    )
  size = population.size
  if sample is not None and size is not None and sample > size:
    raise ValueError(
        f'sample must be at most the size of the list, {size}, got {sample};'
        ' None scores every document once.'
    )
  if sample is not None and sample > len(documents):
    report(
        f'sample={sample} draws some of the {len(documents)} documents more'
        ' than once: None scores each once and needs no second bound'
    )
  w_d = np.asarray(w, np.float32)
  subject = make_subject(
      nll_bits, w_d.size, documents, heldout, vocab_size=vocab_size,
      population=population, cfg=cfg, batch_size=batch_size,
      hash_document=hash_document,
  )
  codes = quantisation.quantise(w_d, cfg, tune=tune, report=report)
  return assembly.assemble(
      [assembly.Candidate(code, subject, w_d) for code in codes],
      cfg,
      started=started,
      made={'versions': _versions('numpy', 'constriction')},
      report=report,
  )


def verify(
    folder: epath.PathLike,
    nll_bits: NllBits,
    documents: Sequence[Any],
    *,
    heldout: Sequence[Any] = (),
    batch_size: int = 256,
    hash_document: Callable[[Any], bytes] | None = None,
    report: Report = quiet,
) -> Certificate:
  """Does everything after the bits of `certify` again, and compares.

  Bits, hashes and arithmetic must agree exactly, and losses within 1e-4 bits.
  What cannot be checked are the declarations: how the documents were drawn and
  how many models were tried.

  Args:
    folder: The folder of `Certificate.save`.
    nll_bits: As it was given to `certify`; and so are the others.
    documents: The same training documents, in the same order.
    heldout: The same documents held out.
    batch_size: Most documents of one call of `nll_bits`.
    hash_document: As it was given to `certify`.
    report: Receives lines for a person to read.

  Returns:
    The certificate, if nothing differs, with the claims that follow from the
    losses found here.

  Raises:
    Mismatch: Something differs; the message names the first such thing.
    ValueError: A file is missing or damaged, or the certificate is about a run.
  """
  with comparison.in_one_line(folder):
    held = comparison.open_checked(folder)
    model, said = held.tree['model'], held.tree['population']
    if 'config' in model:
      raise ValueError(
          f'{folder} is about a run, not about a vector: check it with'
          ' iblm-certify --verify.'
      )
    stated: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in model['certificate'].items()
    }
    cfg = options.CertificateConfig(**stated)
    population = Population(
        said['sampling'], said['size'], said['average'], said['unit']
    )
  subject = make_subject(
      nll_bits, held.tree['code']['numbers'], documents, heldout,
      vocab_size=said['V'], population=population, cfg=cfg,
      batch_size=batch_size, hash_document=hash_document,
  )
  found = comparison.check(held, subject, cfg, report)
  for line in statement.verified(found.tree):
    report(line)
  return found


def _versions(*packages: str) -> dict[str, str]:
  return {
      'iblm_jax': iblm_jax.__version__,
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in packages},
  }

"""Tokenises text into shards, for data of the kind 'shards'.

  python -m iblm_jax.data.prepare SOURCE [SOURCE ...] --out=DIR

A source is a file or a folder as `data.text.paths` takes them (.txt, .jsonl,
each also as .gz), or hf:NAME[:SPLIT], a data set of the Hugging Face Hub. A
killed program goes on where it was when it is started again with the same
flags; docs/data.md has more.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence

from absl import flags

from iblm_jax import cli, files
from iblm_jax.data import _checks, identity
from iblm_jax.data.shards import writer as shard_writer
from iblm_jax.data.text import files as text
from iblm_jax.data.text import tokenising
from iblm_jax.data.text import tokenizers as tokenizers_lib

FLAGS = flags.FLAGS

# A shard is longer by a part of a document, and its header counts to 2**31.
_MOST_TOKENS = 2**30
_REPORT_SECONDS = 5.0
_COMMIT_SECONDS = 60.0


def prepare(
    sources: Sequence[str],
    out: str,
    options: tokenising.Options,
    *,
    format: str = 'bin',
    shard_tokens: int = 100_000_000,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> None:
  """Tokenises sources into a folder of shards and an `index.json`.

  Args:
    sources: Files, folders and data sets, see the module.
    out: Local folder; missing, empty, or one that this function left with the
      same arguments.
    options: How text becomes tokens.
    format: 'bin' or 'array_record'.
    shard_tokens: A shard ends with the document that makes it as long, 1..2**30
      tokens.
    workers: Processes that tokenise, 1..1024; the files do not depend on it.
    report: Takes lines for the person who watches.

  Raises:
    ValueError: An argument is out of its range, a source or the tokenizer
      cannot be used, or the folder holds something else. Of sources whose
      contents are refused nothing is left in the folder.
    OSError: A file cannot be written, a data set ended early or a process was
      killed; the same call goes on from there.
  """
  _checks.check_int('shard_tokens', shard_tokens, 1, _MOST_TOKENS)
  _checks.check_int('workers', workers, 1, 1024)
  _checks.check_choice('format', format, ('bin', 'array_record'))
  if '://' in out:
    raise ValueError(f'out must be a local folder, got {out!r}.')
  out = str(files.folder('out', out))
  if '' in sources:
    raise ValueError("sources must be files, folders or data sets, got ''.")
  tokenizer = tokenizers_lib.load_tokenizer(options.tokenizer)
  if tokenizer.vocab_size > 2**16:
    raise ValueError(
        f'tokenizer must have at most {2**16} tokens, which is what 16 bits'
        f' hold, got {tokenizer.vocab_size} with {options.tokenizer!r}.'
    )
  found = tokenising.describe(sources)
  # A copy of the tokenizer is put beside the shards, so that they are complete.
  copy = tokenizers_lib.saved(options.tokenizer, tokenizer)
  name, contents = copy or (options.tokenizer, b'')
  writer = shard_writer.ShardWriter(
      out,
      {
          'format': format,
          'tokenizer': name,
          'tokenizer_sha256': (
              hashlib.sha256(contents).hexdigest() if copy else None
          ),
          'vocab_size': tokenizer.vocab_size,
          'eot_id': tokenizer.bos_id,
          'documents': options.documents,
          'text_field': options.text_field,
          'holdout': options.holdout,
          'shard_tokens': shard_tokens,
          'sources': found,
      },
      identity.of_files(
          [one['name'] for one in found if 'bytes' in one], sampled=True
      ),
  )
  try:
    if writer.finished:
      report(f'{out} is finished already.')
      return
    if copy:
      files.write_bytes(os.path.join(out, name), contents)
    chunks = itertools.islice(
        tokenising.read(found, options), writer.chunks, None
    )
    try:
      with contextlib.closing(
          tokenising.tokenise(chunks, options, workers)
      ) as tokens_of_chunks:
        _write(writer, tokens_of_chunks, report)
      if not any(map(writer.documents, tokenising.SPLITS)):
        raise ValueError(f'sources {list(sources)} hold no document.')
    except ValueError:
      # Sources that are refused get corrected, and then are other sources.
      writer.discard()
      raise
    writer.finish()
    for split in tokenising.SPLITS:
      report(
          f'{split}: {writer.documents(split):,} documents,'
          f' {writer.tokens(split):,} tokens'
      )
    _report_empty(writer, options.holdout, report)
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # they name no file
      error.filename = error.filename or out
    raise
  finally:
    writer.close()


def _report_empty(
    writer: shard_writer.ShardWriter,
    holdout: float,
    report: Callable[[str], None],
) -> None:
  """Says of which split there is no file, which a run would miss."""
  train, validation = map(writer.documents, tokenising.SPLITS)
  if not train:
    report(
        f'no train file: {holdout=} keeps all {validation} documents for'
        ' validation; give a smaller one, and another folder.'
    )
  if holdout and not validation:
    report(
        f'no validation file: {holdout=} keeps none of the {train} documents;'
        ' give a larger one, and another folder, or no validation files to a'
        ' run.'
    )


def _write(
    writer: shard_writer.ShardWriter,
    tokens_of_chunks: Iterable[tokenising.Tokens],
    report: Callable[[str], None],
) -> None:
  """Writes all chunks, and says every few seconds how far it is."""

  def count(what):
    return sum(map(what, tokenising.SPLITS))

  if writer.chunks:
    report(f'going on after {count(writer.documents):,} documents')
  number = writer.chunks
  reported = committed = time.monotonic()
  before = count(writer.tokens)
  for tokens in tokens_of_chunks:
    number += 1
    # All splits have to be added before the index says that the chunk is.
    full = [writer.add(split, *tokens[split]) for split in tokenising.SPLITS]
    now = time.monotonic()
    if any(full) or now - committed > _COMMIT_SECONDS:
      writer.commit(number)
      committed = now
    if now - reported > _REPORT_SECONDS:
      total = count(writer.tokens)
      rate = (total - before) / (now - reported)
      report(
          f'{count(writer.documents):,} documents, {total:,} tokens,'
          f' {rate:,.0f} tokens/s'
      )
      reported, before = now, total


def main(sources: list[str]) -> None:
  """Prepares what the flags say."""
  try:
    prepare(
        sources,
        FLAGS.out,
        tokenising.Options(
            tokenizer=FLAGS.tokenizer,
            documents=FLAGS.documents,
            text_field=FLAGS.text_field,
            holdout=FLAGS.holdout,
            gz_ratio=FLAGS.gz_ratio,
        ),
        format=FLAGS.format,
        shard_tokens=FLAGS.shard_tokens,
        workers=FLAGS.workers,
        report=cli.report,
    )
  except ValueError as error:
    raise cli.BadUsage(str(error)) from error


def run() -> None:
  """Entry point."""
  cli.DEFINE_folder('out', 'Folder for the shards.')
  flags.DEFINE_string(
      'tokenizer',
      'bytes',
      "'bytes', a tokenizer.json or .model file, or a published model.",
  )
  flags.DEFINE_enum('format', 'bin', ['bin', 'array_record'], 'Of the shards.')
  flags.DEFINE_integer('shard_tokens', 100_000_000, 'Tokens of a shard.')
  flags.DEFINE_float('holdout', 0.01, 'Share of documents for validation.')
  flags.DEFINE_integer(
      'workers', os.cpu_count() or 1, 'Processes that tokenise.'
  )
  flags.DEFINE_enum(
      'documents', 'file', list(text.DOCUMENTS), 'Documents of a .txt.'
  )
  flags.DEFINE_string('text_field', 'text', 'Field of a record with its text.')
  flags.DEFINE_integer(
      'gz_ratio',
      text.GZ_RATIO,
      'Most bytes that a byte of a .gz may unpack to; 2000 is any number.',
  )
  flags.mark_flag_as_required('out')
  cli.run(main, 'SOURCE ...')


if __name__ == '__main__':
  run()

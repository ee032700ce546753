"""Measures what an embedding of a checkpoint holds of its input.

  python -m iblm_jax.probe --workdir=RUN
  python -m iblm_jax.probe --gpt2=FOLDER --text=FILE --workdir=OUT

Trains a new decoder to predict all tokens of a sequence from one vector of the
frozen model, and a second decoder without that vector as a control. The results
are printed and written to WORKDIR/probe.json.
"""

from absl import flags
from etils import epath

from iblm_jax import cli, files
from iblm_jax.probing import decoder_probe as probing
from iblm_jax.probing import subject as probe_subject

FLAGS = flags.FLAGS


def main() -> None:
  """Trains both decoders, prints and writes what they recover."""
  workdir = epath.Path(FLAGS.workdir)
  with cli.refusing():
    subject = probe_subject.load(
        FLAGS.workdir,
        gpt2=FLAGS.gpt2,
        text=FLAGS.text,
        tokenizer=FLAGS.tokenizer,
        length=FLAGS.length,
        position=FLAGS.position,
        step=FLAGS.step,
    )
    cfg = probing.ProbeConfig(
        length=subject.length,
        num_layers=FLAGS.layers,
        width=FLAGS.width,
        num_heads=FLAGS.heads,
        injection=FLAGS.injection,
        num_steps=FLAGS.steps,
        batch_size=FLAGS.batch_size,
        peak=FLAGS.peak,
        seed=FLAGS.seed,
    )
    cfg.decoder(subject.encoder.vocab_size)
    probing.check_rows(subject.train, subject.heldout, cfg)
    probing.width_of(subject.encoder, cfg.length)
  after = '' if subject.step is None else f' after {subject.step} updates'
  cli.report(
      f'{subject.name}: {subject.what}{after}, {subject.length} tokens, read at'
      f' {subject.position}'
  )
  found = probing.probe(
      subject.encoder, subject.train, subject.heldout, cfg, cli.report
  )
  tree = {
      'subject': subject.describe(),
      'probe': {**vars(cfg)},
      'found': found,
  }
  workdir.mkdir(parents=True, exist_ok=True)
  files.write_json(workdir / 'probe.json', tree, indent=None)
  for line in lines(found):
    cli.report(line)
  cli.report(f'wrote {workdir}/probe.json')


def lines(found: dict[str, float]) -> list[str]:
  """Describes the results to a person, in one string per line."""
  return [
      f'cross-entropy {found["cross_entropy"]:.4f} nats a token'
      f' ({found["constant/cross_entropy"]:.4f} without the vector), accuracy'
      f' {found["accuracy"]:.1%} ({found["constant/accuracy"]:.1%})',
      f'recovered {found["recovered_bits"]:.1f} bits of a sequence,'
      f' {found["recovered_fraction"]:.1%} of what the control does not know;'
      f' information fraction {found["information_fraction"]:.3f}',
      f'entropy of the embeddings {found["mbe"]:.3f} nats (order 1),'
      f' {found["mbe/order_2"]:.3f} (order 2)',
  ]


def run() -> None:
  """Defines the flags and starts the program."""
  cli.DEFINE_folder(
      'workdir', 'Folder of the run. With --gpt2, folder of the results.'
  )
  flags.DEFINE_string(
      'gpt2', None, 'Weights of GPT-2 (model.safetensors, or its folder).'
  )
  flags.DEFINE_string('text', None, 'With --gpt2: text to read.')
  flags.DEFINE_string(
      'tokenizer',
      None,
      'With --gpt2: tokenizer.json, .model or "bytes"; by default the'
      ' tokenizer.json beside the weights.',
  )
  flags.DEFINE_integer(
      'length',
      None,
      'Tokens of a sequence; by default what the model encodes, 16 for a'
      ' decoder.',
  )
  flags.DEFINE_string(
      'position',
      None,
      'Which position is the vector: last_valid, last or penultimate.',
  )
  flags.DEFINE_integer(
      'step', None, 'Checkpoint to read, in updates; by default the newest.'
  )
  flags.DEFINE_integer('steps', 2000, 'Updates of each decoder.')
  flags.DEFINE_integer('batch_size', 64, 'Sequences of an update.')
  flags.DEFINE_integer('layers', 2, 'Layers of the decoder.')
  flags.DEFINE_integer('width', 64, 'Width of the decoder.')
  flags.DEFINE_integer('heads', 4, 'Heads of its attention, or of its mixing.')
  flags.DEFINE_string('injection', 'unroll', 'unroll, or repeat (a mixer).')
  flags.DEFINE_float('peak', 3e-3, 'Largest learning rate.')
  flags.DEFINE_integer('seed', 0, 'Seed of the decoders.', **cli.SEEDS)
  flags.mark_flag_as_required('workdir')
  cli.run(main)


if __name__ == '__main__':
  run()

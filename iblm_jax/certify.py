"""Certifies how a model generalises, and checks certificates.

  python -m iblm_jax.certify --config=configs/certify_X.py --workdir=DIR
  python -m iblm_jax.certify --verify=DIR/certificate

The first command trains few numbers, codes them, and bounds the loss of the
model that the code describes. The second one needs only the certificate and the
data, which --data names where they are in a file, and, where the run added to a
published model, that model: --base.
"""

import contextlib

import jax
from absl import flags
from etils import epath

from iblm_jax import cli, config_flag, errors
from iblm_jax import config as config_lib
from iblm_jax.bounds import options
from iblm_jax.certification import confinement, statement, verification
from iblm_jax.certification import pipeline as certification
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
    return verify(epath.Path(FLAGS.verify))
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


def verify(folder: epath.Path) -> None:
  """Verifies a certificate, in a process with limits; says what differs."""
  with cli.refusing():
    verification.check_files(folder)
  with _not_verified():
    confinement.run(
        'iblm_jax.certify',
        'run_confined',
        seconds=FLAGS.verify_seconds,
        gigabytes=FLAGS.verify_gigabytes,
    )


def verify_confined() -> None:
  """What the process with limits does."""
  folder = epath.Path(FLAGS.verify)
  jax.devices()  # which may take its time
  with _not_verified():
    confinement.stop_at(
        min(confinement.CONFIG_SECONDS, FLAGS.verify_seconds)
    )
    opened = verification.open_certificate(
        folder,
        FLAGS.data,
        base=FLAGS.base,
        gigabytes=FLAGS.verify_gigabytes,
    )
    confinement.stop_at(FLAGS.verify_seconds)
    found = verification.verify(folder, cli.report, opened=opened)
  claim, word = statement.verified(found.tree)
  cli.report(f'verified: {folder}: {claim}')
  cli.report(word)


@contextlib.contextmanager
def _not_verified():
  try:
    yield
  except (verification.Mismatch, ValueError, errors.RunFailed) as error:
    raise errors.RunFailed(f'not verified: {error}') from error


def run() -> None:
  """Defines the flags and starts the program."""
  _define_flags()
  cli.run(main)


def run_confined() -> None:
  """Starts the part of the program that `verify` confines."""
  _define_flags()
  cli.run(verify_confined)


def _define_flags() -> None:
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
      'With --verify: the data file, or a pattern of the files. Nothing that a'
      ' certificate names is read.',
  )
  flags.DEFINE_string(
      'base',
      None,
      'With --verify: the published model that the run added to.',
  )
  flags.DEFINE_integer(
      'verify_seconds',
      1800,
      'With --verify: time that it may take.',
      lower_bound=1,
      upper_bound=10**7,
  )
  flags.DEFINE_integer(
      'verify_gigabytes',
      verification.GIGABYTES,
      'With --verify: memory that it may take.',
      lower_bound=1,
  )


if __name__ == '__main__':
  run()

"""What C++ says when another process has ended is one line."""

import subprocess
import sys

import pytest

from iblm_jax.training.scale import companions

FATAL = b"""\
E1128 07:07:35.364530 19589 coordination_service_agent.cc:289] Polled an error
F1128 07:07:35.364577 19589 client.h:80] Terminating process because the JAX \
distributed service detected fatal errors. absl::Status: UNAVAILABLE: Failed
Additional GRPC error information from remote target coordination_service
*** Check failure stack trace: ***
    @     0x7fd56b840634  absl::lts_20260107::log_internal::LogMessage::Send()
Fatal Python error: Aborted
"""
LOST = b"""\
W1128 07:11:24.2 29387 preemption_sync_manager.cc:147] Failed to retrieve
Additional GRPC error information from remote target coordination_service
"""
OWN = b"""\
E1128 07:11:24.2 29387 gpu_executor.cc:1] out of memory
F1128 07:11:24.2 29387 some_other.cc:80] Check failed: a == b
*** Check failure stack trace: ***
"""


@pytest.mark.parametrize(
    'said, heard',
    [
        (FATAL, b'LINE\n'),
        (OWN, OWN),  # a fault of another kind is shown as it is
        (LOST + OWN, OWN),
        (OWN + LOST + FATAL + OWN, OWN + b'LINE\n'),
        (b'no end of a line', b'no end of a line'),
        (b'\xff\0\n', b'\xff\0\n'),
    ],
)
def test_only_the_loss_of_another_process_is_put_in_other_words(said, heard):
  done = subprocess.run(
      [sys.executable, '-I', '-S', '-c', companions._FILTER, 'LINE'],
      input=said, capture_output=True, check=True,
  )
  assert done.stderr == heard

"""What a process says when another one of its run has ended.

JAX then aborts it, wherever it is, and C++ prints its stacks. What libraries
write to standard error therefore passes through a small process of its own,
which has one line in place of that.
"""

import os
import subprocess
import sys

_LINE = (
    'another process of this run has ended or cannot be reached; its own output'
    ' says why. The same command goes on from the last checkpoint.'
)
_FILTER = r"""
import re, sys
begins = re.compile(rb'[IWEF]\d{4} ')
theirs = re.compile(
    rb'[WEF]\d{4} .*(coordination_service_agent|coordination_service.cc'
    rb'|preemption_sync|distributed service)')
skips = ended = False
for text in iter(sys.stdin.buffer.readline, b''):
  if begins.match(text):
    skips = bool(theirs.match(text))
  if skips and text.startswith(b'F') and not ended:
    text, skips, ended = sys.argv[1].encode() + b'\n', False, True
    sys.stderr.buffer.write(text)
  elif not skips and not ended:
    sys.stderr.buffer.write(text)
  sys.stderr.buffer.flush()
"""


def listen() -> None:
  """Lets C++ write to standard error through the filter from now on.

  Python's own `sys.stderr` stays as it is. The process that filters ends with
  this one.
  """
  errors = os.dup(2)
  sys.stderr.flush()
  program = os.path.basename(sys.argv[0])
  process = subprocess.Popen(
      [sys.executable, '-I', '-S', '-c', _FILTER, f'{program}: {_LINE}'],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      start_new_session=True,  # Ctrl-C is for this process
  )
  assert process.stdin is not None
  os.dup2(process.stdin.fileno(), 2)
  process.stdin.close()
  sys.stderr = open(errors, 'w', buffering=1, encoding='utf-8')


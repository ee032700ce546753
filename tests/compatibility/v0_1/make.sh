#!/bin/sh
# Makes made.tar.xz with version 0.1, in two minutes:
#
#   git worktree add /tmp/v0.1 cfffafe && sh tests/compatibility/v0_1/make.sh /tmp/v0.1
#
# Of this tree only the configs and texts beside this file, tests/conftest.py
# (flags of XLA) and tests/helpers/observations.py (what is hashed) are used;
# where imports of the latter have moved since, take the one of the commit that
# added this file.
set -e
PYTHONPATH="${1:?folder of version 0.1}" PYTHONSAFEPATH=1 \
  python "$(dirname "$0")/make.py"

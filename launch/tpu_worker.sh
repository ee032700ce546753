#!/usr/bin/env bash
# What launch/tpu_vm.py runs on every worker of a TPU VM.
#
#   tpu_worker.sh setup archive FILE    code from a .tar.gz file
#   tpu_worker.sh setup git URL REV     code from a git repository
#   tpu_worker.sh start ARGS...         python -m iblm_jax.main, detached
#   tpu_worker.sh state                 prints one line, see outcomes.py
#   tpu_worker.sh stop                  SIGTERM; after GRACE seconds SIGKILL
#   tpu_worker.sh log LINES [follow]    the end of the log
#   tpu_worker.sh log_from BYTE         the log from a byte on, counted from 1
set -euo pipefail

self=$(realpath "$0")
base=$HOME/iblm
run=$base/run

fail() {
  echo "$(hostname): $*" >&2
  exit 1
}

# The lock is held by the supervisor and the run, so that a reboot, after which
# process ids mean nothing, frees it.
alive() {
  [[ -e $run/lock ]] && ! flock --nonblock "$run/lock" true
}

setup() {
  alive && fail 'a run is alive on this worker; stop it before setup.'
  local new=$base/code.new
  rm -rf "$new"
  mkdir -p "$new"
  case $1 in
    archive)
      tar -xzf "$HOME/$2" -C "$new"
      ;;
    git)
      git -C "$new" init --quiet
      git -C "$new" fetch --quiet --depth=1 -- "$2" "$3"
      git -C "$new" checkout --quiet --detach FETCH_HEAD
      ;;
    *) fail "setup: no source '$1'." ;;
  esac
  rm -rf "$base/code"
  mv "$new" "$base/code"
  [[ -x $base/venv/bin/python ]] || make_venv
  # gcs: the program opens gs:// paths.
  (cd "$base/code" &&
    "$base/venv/bin/python" -m pip install --quiet '.[tpu,gcs]')
  echo "$(hostname): ready"
}

# The runtimes of TPU VMs may come with an older Python than the project needs,
# or without the parts that venv needs.
make_venv() {
  local python
  rm -rf "$base/venv"
  for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import ensurepip, sys
sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv "$base/venv"
      return
    fi
  done
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --seed --python=3.12 "$base/venv"
}

start() {
  alive && fail 'a run is alive on this worker; follow it or stop it.'
  [[ -x $base/venv/bin/python ]] || fail 'not set up: run setup first.'
  mkdir -p "$run"
  rm -f "$run/exit_status" "$run/pid"
  cd "$base/code"
  nohup setsid bash "$self" supervise "$@" </dev/null >"$run/log" 2>&1 &
  for _ in {1..100}; do
    [[ -e $run/pid ]] && return
    sleep 0.1
  done
  fail 'the run did not start within 10 seconds.'
}

supervise() {
  exec 9>"$run/lock"
  flock --nonblock 9
  local status=0 child
  # Where JAX got no TPU, the program refuses to start on the CPU.
  export IBLM_PLATFORM=tpu
  "$base/venv/bin/python" -m iblm_jax.main "$@" &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null || true' TERM
  write "$run/pid" "$$"
  wait "$child" || status=$?
  # A signal interrupts wait; the run is still saving then.
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  write "$run/exit_status" "$status"
}

# Whole or not at all.
write() {
  echo "$2" >"$1.new"
  mv "$1.new" "$1"
}

state() {
  local word=none
  if alive; then
    word=alive
  elif [[ -e $run/exit_status ]]; then
    word="exited $(cat "$run/exit_status")"
  elif [[ -e $run/pid ]]; then
    word=lost
  fi
  echo "iblm-state: $word"
}

stop() {
  alive || return 0
  local pid
  pid=$(cat "$run/pid")
  kill -TERM "$pid" 2>/dev/null || true
  for ((i = 0; i < 10 * ${GRACE:-120}; i++)); do
    alive || return 0
    sleep 0.1
  done
  # The supervisor leads a process group of its own.
  kill -KILL -- "-$pid" 2>/dev/null || true
}

log() {
  [[ -e $run/log ]] || fail 'no log: nothing was started.'
  tail --lines="$1" ${2:+--follow=name} "$run/log"
}

log_from() {
  [[ ! -e $run/log ]] || tail --bytes="+$1" "$run/log"
}

case ${1:-} in
  setup | start | supervise | state | stop | log | log_from) "$@" ;;
  *) fail "no command '${1:-}'." ;;
esac

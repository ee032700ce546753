#!/usr/bin/env bash
# Trains on all GPUs of several hosts, one process a host, started over ssh:
#
#   HOSTS='node1 node2' launch/gpu_hosts.sh \
#       --config=configs/text.py:gapt --workdir=/shared/runs/a
#
# HOSTS   names for ssh; the first one coordinates, so the others must reach it
# CODE    folder of the checkout on every host (default: where it is here)
# PYTHON  the interpreter on every host (default: python)
# PORT    a free port of the first host (default: 12421)
# GRACE   seconds that a host has to save and end when another one failed
#
# Ends with 2 if any process was given a bad config, else 1 if any failed, else
# 143 if any was stopped after saving, else 0.
set -euo pipefail

refuse() {
  echo "gpu_hosts.sh: $*" >&2
  exit 2
}

read -r -a hosts <<<"${HOSTS:-}"
((${#hosts[@]} > 0)) || refuse "no hosts: set HOSTS='node1 node2'."
(($# > 0)) || refuse 'no arguments: give --config=... and --workdir=...'
code=${CODE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
grace=${GRACE:-120}
coordinator=${hosts[0]##*@}:${PORT:-12421}

# Runs on a host: member FOLDER INTERPRETER ARGS... A line on its input asks it
# to stop, and so does the end of its input, when the connection breaks.
# shellcheck disable=SC2329  # `start` ships it
member() {
  cd "$1" || exit 2
  export PYTHON=$2
  shift 2
  exec 3<&0
  bash launch/gpu_host.sh "$@" </dev/null 3<&- &
  local child=$! status=0
  { read -r -u 3 _ || true; kill -TERM "$child"; } 2>/dev/null &
  local watcher=$!
  wait "$child" || status=$?
  kill "$watcher" 2>/dev/null
  exit "$status"
}

# One word for any POSIX shell, whatever the login shell of the host is.
quote() {
  printf "'%s'" "${1//\'/\'\\\'\'}"
}

words() {
  local word
  for word in "$@"; do
    quote "$word"
    printf ' '
  done
}

start() { # start INDEX ARGS...: writes 'INDEX STATUS' when it has ended
  local index=$1 host=${hosts[$1]} status=0 script input
  shift
  # Only the parent may keep the input open, so that it ends with the parent.
  exec 4<"$scratch/input$index"
  for input in "${inputs[@]}"; do
    exec {input}>&-
  done
  script="$(declare -f member)
member $(words "$code" "${PYTHON:-python}" "$@")"
  ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15 \
    "$host" "bash -c $(quote "$script")" \
    <&4 4<&- > >(prefix "$host") 2>&1 &
  echo $! >"$scratch/pid$index"
  wait $! || status=$?
  echo "$index $status" >&"$results"
}

prefix() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[%s] %s\n' "$1" "$line"
  done
}

deadline=
stop() {
  local input
  [[ -z $deadline ]] || return 0
  deadline=$((SECONDS + grace))
  for input in "${inputs[@]}"; do
    echo stop >&"$input"
  done
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
inputs=()
trap stop INT TERM
mkfifo "$scratch/results"
exec {results}<>"$scratch/results"
for index in "${!hosts[@]}"; do
  mkfifo "$scratch/input$index"
  exec {input}<>"$scratch/input$index"
  inputs+=("$input")
  start "$index" "$@" "--coordinator_address=$coordinator" \
    "--num_processes=${#hosts[@]}" "--process_id=$index" &
done

left=${#hosts[@]}
worst=0
while ((left > 0)); do
  if read -r -t 1 index status <&"$results"; then
    left=$((left - 1))
    echo "gpu_hosts.sh: ${hosts[index]} ended with $status"
    case $status in
      0) continue ;;
      2) worst=2 ;;
      143) ((worst != 0)) || worst=143 ;;
      *) ((worst == 2)) || worst=1 ;;
    esac
    stop
  elif [[ -n $deadline ]] && ((SECONDS >= deadline)); then
    for index in "${!hosts[@]}"; do
      kill "$(cat "$scratch/pid$index")" 2>/dev/null || true
    done
  fi
done
wait
exit "$worst"

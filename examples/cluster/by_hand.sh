#!/usr/bin/env bash
# One training by several processes that are told of each other by hand.
#   examples/cluster/by_hand.sh 2 FLAGS...          two workers on this machine
# On several machines run the last line of `worker` on each, with the addresses of all in
# the same order and an index of its own; ports have to be open between them.
set -euo pipefail
count=$1
shift
port=${PORT:-23456}
addresses=$(seq -s, "$port" $((port + count - 1)) | sed 's/[0-9]\+/"localhost:&"/g')

worker() {
  TF_CONFIG="{\"cluster\": {\"worker\": [$addresses]},
              \"task\": {\"type\": \"worker\", \"index\": $1}}" python run.py "${@:2}"
}

trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
for index in $(seq 0 $((count - 1))); do
  worker "$index" "$@" &
done
for process in $(jobs -p); do
  wait "$process"
done

#!/usr/bin/env bash
# Makes the golden image of the format that SNAPGDB writes: tests/golden/make.sh SNAPGDB vN.snapgdb
# Run it once a released format, as root; an image that was committed is never made again.
set -euo pipefail
snapgdb=$(realpath "$1") out=$(realpath "$2") here=$(dirname "$(realpath "$0")")
[ ! -e "$out" ] || { echo "$out exists: golden images are kept, not made again" >&2; exit 1; }

# A host name, a directory and an environment that tell nothing about the machine.
export snapgdb out here
unshare --uts --mount bash -euc '
  hostname golden
  mount -t tmpfs golden /mnt
  mkdir /mnt/golden && cd /mnt/golden
  gcc -g -Os -static -nostdlib -no-pie -fno-stack-protector -fdebug-prefix-map="$here"=. \
    -o tiny "$here/tiny.c"
  mkfifo ready
  env -i ./tiny </dev/null >ready 2>/dev/null &
  program=$!
  read -r _ <ready
  "$snapgdb" capture "$program" -o image.snapgdb
  kill -KILL "$program" $(cat "/proc/$program/task/$program/children")
  cp image.snapgdb "$out"
'
chmod 644 "$out"

#!/usr/bin/env bash
# The rooms of docs/architecture.md include only what they may.
set -euo pipefail
cd "$(dirname "$0")/../.."
status=0

# forbid FOLDER PATTERN REASON; a room within a room has rules of its own
forbid() {
  local hits
  if hits=$(grep -rnE "$2" --include='*.h' --include='*.cc' --exclude-dir=live "$1"); then
    printf '%s\n  %s\n' "$hits" "$1: $3"
    status=1
  fi
}

forbid core/base '#include "(core/(image|linux|resource|inspect|capture)|elfconv|gdbstub|gui|cli)' 'base knows no other room'
forbid core/image '#include "(core/(linux|resource|inspect|capture)|elfconv|gdbstub|gui|cli)' 'nouns and bytes only'
forbid core/image 'ptrace|process_vm_readv|"/proc/[^s]' 'no system call about processes'
forbid core/linux '#include "(core/(image|resource|inspect|capture)|elfconv|gdbstub|gui|cli)|pb::' 'knows no schema'
forbid core/inspect '#include "(core/(linux|resource|capture)|elfconv|gdbstub|gui|cli)' 'reads snapshots only'
forbid elfconv '#include "(core/(linux|resource|inspect|capture)|gdbstub|gui|cli)' 'reads snapshots only'
forbid gdbstub '#include "(core/(linux|resource|inspect|capture)|elfconv|gui|cli)' 'reads snapshots only'
forbid gdbstub/live/. '#include "(core/(inspect|capture)|elfconv|gui|cli)' 'runs what core restores'
forbid gdbstub/live/. '::ptrace\(|PTRACE_' 'only core/linux calls ptrace'
forbid gui/models '#include <Q(Widget|Window|Painter|Font|Icon|Brush|Color)' 'models have no widgets'
for room in core/resource core/inspect elfconv gdbstub gui cli; do
  forbid "$room" '::ptrace\(|PTRACE_' 'only core/linux calls ptrace'
done
exit $status

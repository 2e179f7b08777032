#pragma once

#include <cstdint>

#include "core/resource/resource.h"

namespace snapgdb {

// What system calls of a thread tell of its keyrings, keyrings(7). Negative: there is none.
struct KeyringAnswers {
  int32_t thread = -1, process = -1;  // bytes of what KEYCTL_READ would give: a serial number a key
  int32_t session = -1;               // serial number; only of those of this name:
};

// What pam_keyinit(8), systemd and keyctl(1) give a session. It is found by request_key(2), since
// to ask for the session's keyring as such would make one where there is none.
struct SessionKeyringName {
  char type[8] = "keyring", description[8] = "_ses";
};

// Keys are the kernel's alone: they are described, and those that go with the thread are missing.
void describe_keyrings(CaptureContext& context, Pid pid, const KeyringAnswers& answers,
                       pb::Thread& thread);

}  // namespace snapgdb

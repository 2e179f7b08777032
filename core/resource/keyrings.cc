#include "core/resource/keyrings.h"

#include <linux/keyctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/linux/user_for_files.h"

namespace snapgdb {
namespace {

constexpr size_t kKeySize = sizeof(int32_t);  // in what KEYCTL_READ gives of a keyring

// "TYPE;UID;GID;PERMISSIONS;DESCRIPTION"; "" where one may not see it.
std::string description_of(int32_t serial) {
  char text[4096 + 256];  // the kernel's limit of a description, and the rest
  const long size = ::syscall(SYS_keyctl, KEYCTL_DESCRIBE, serial, text, sizeof text, 0);
  return size > 0 && static_cast<size_t>(size) <= sizeof text ? std::string(text) : "";
}

std::vector<int32_t> keys_of(int32_t keyring) {
  std::vector<int32_t> keys(64);
  long size = 0;
  while ((size = ::syscall(SYS_keyctl, KEYCTL_READ, keyring, keys.data(), keys.size() * kKeySize,
                           0)) > static_cast<long>(keys.size() * kKeySize))
    keys.resize(static_cast<size_t>(size) / kKeySize);
  keys.resize(static_cast<size_t>(std::max(size, 0L)) / kKeySize);
  return keys;
}

pb::Keyring describe_session(int32_t serial, const pb::Credentials& whose) {
  const UserForFiles as_user(whose.fsuid(), whose.fsgid());
  pb::Keyring out;
  out.set_kind("session");
  out.set_serial(serial);
  for (const int32_t key : keys_of(serial)) out.add_key_descriptions(description_of(key));
  out.set_keys(static_cast<uint32_t>(out.key_descriptions_size()));
  return out;
}

// Keyrings in it, like that of its user, are more than this session's.
bool is_session_only(const std::string& key) {
  return !key.starts_with("keyring;");
}

}  // namespace

void describe_keyrings(CaptureContext& context, Pid pid, const KeyringAnswers& answers,
                       pb::Thread& thread) {
  const Tid tid{thread.tid()};
  // Returns whether there are keys in it.
  const auto add = [&](const char* kind, int32_t size) {
    if (size < 0) return false;
    pb::Keyring& out = *thread.add_keyrings();
    out.set_kind(kind);
    out.set_keys(static_cast<uint32_t>(size) / kKeySize);
    return out.keys() > 0;
  };
  constexpr std::string_view kWhy = "only the kernel has what is in them";
  if (add("thread", answers.thread)) context.lacks(pid, tid, "keys of the thread's keyring", kWhy);
  if (add("process", answers.process) && context.told_of_keys.insert(pid).second)
    context.lacks(pid, {}, "keys of the process's keyring", kWhy);
  if (answers.session <= 0) return;
  const auto [found, is_new] = context.sessions.try_emplace(answers.session);
  if (is_new) {
    found->second = describe_session(answers.session, thread.credentials());
    if (std::ranges::any_of(found->second.key_descriptions(), is_session_only))
      context.lacks(pid, {}, "keys of the session's keyring",
                    "a restored tree has those of the session where it is restored");
  }
  *thread.add_keyrings() = found->second;
}

}  // namespace snapgdb

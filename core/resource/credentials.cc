#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

struct IdColumn {
  void (pb::Credentials::*user)(uint32_t);
  void (pb::Credentials::*group)(uint32_t);
};
// The columns of "Uid:" and "Gid:" in /proc/PID/status, in the order of proc(5).
constexpr IdColumn kColumns[] = {
    {&pb::Credentials::set_ruid, &pb::Credentials::set_rgid},
    {&pb::Credentials::set_euid, &pb::Credentials::set_egid},
    {&pb::Credentials::set_suid, &pb::Credentials::set_sgid},
    {&pb::Credentials::set_fsuid, &pb::Credentials::set_fsgid},
};

void capture(CaptureContext&, const StoppedTask& stopped, pb::Thread& thread) {
  const ProcFields& status = stopped.status();
  pb::Credentials& out = *thread.mutable_credentials();
  const auto users = split_blank(status.text("Uid")), groups = split_blank(status.text("Gid"));
  for (size_t i = 0; i < std::size(kColumns) && i < users.size() && i < groups.size(); ++i) {
    const IdColumn& column = kColumns[i];
    (out.*column.user)(parse_number<uint32_t>(users[i]).value_or(UINT32_MAX));
    (out.*column.group)(parse_number<uint32_t>(groups[i]).value_or(UINT32_MAX));
  }
  for (const std::string_view group : split_blank(status.text("Groups")))
    out.add_groups(parse_number<uint32_t>(group).value_or(UINT32_MAX));
  out.set_cap_inheritable(status.number("CapInh", 16));
  out.set_cap_permitted(status.number("CapPrm", 16));
  out.set_cap_effective(status.number("CapEff", 16));
  out.set_cap_bounding(status.number("CapBnd", 16));
  out.set_cap_ambient(status.number("CapAmb", 16));
  out.set_no_new_privs(status.number("NoNewPrivs") != 0);
  out.set_seccomp_mode(static_cast<uint32_t>(status.number("Seccomp")));
  out.set_seccomp_filters(static_cast<uint32_t>(status.number("Seccomp_filters")));
  // No such label without a security module, or none that this kernel shows.
  out.set_lsm_label(std::string(trim(stopped.proc.read_if_allowed("attr/current").value_or(""))));
}

}  // namespace

const ThreadResource kCredentials{"credentials", capture};

}  // namespace snapgdb

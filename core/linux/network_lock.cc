#include "core/linux/network_lock.h"

#include <nftables/libnftables.h>

#include <memory>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

// What nftables says of it; "" if it worked. `output`: what it prints, if that is of interest.
std::string run_nft(const std::string& commands, std::string* output = nullptr) {
  const std::unique_ptr<nft_ctx, void (*)(nft_ctx*)> nft(nft_ctx_new(NFT_CTX_DEFAULT),
                                                         nft_ctx_free);
  if (!nft || nft_ctx_buffer_error(nft.get()) != 0 || nft_ctx_buffer_output(nft.get()) != 0)
    return "libnftables cannot be used";
  const bool done = nft_run_cmd_from_buffer(nft.get(), commands.c_str()) == 0;
  if (done && output) *output = nft_ctx_get_output_buffer(nft.get());
  if (done) return "";
  const std::string said = nft_ctx_get_error_buffer(nft.get());
  return std::string(trim(said.substr(0, said.find('\n'))));
}

}  // namespace

NetworkLock::NetworkLock(std::string name, const std::vector<Connection>& connections)
    : name_(std::move(name)) {
  // A set of connections for each version, and rules that come before connections are tracked.
  std::string commands = fmt::format("add table inet {}\n", name_);
  for (const char* hook : {"input", "output"})
    commands += fmt::format(
        "add chain inet {0} {1} {{ type filter hook {1} priority -300; policy accept; }}\n"
        "add rule inet {0} {1} meta mark {2:#x} accept\n",
        name_, hook, kPassingMark);
  for (const auto& [version, set] :
       {std::pair("ip", "connections4"), std::pair("ip6", "connections6")})
    commands += fmt::format(
        "add set inet {0} {2} {{ type {3}_addr . inet_service . {3}_addr . inet_service; }}\n"
        "add rule inet {0} input {1} daddr . tcp dport . {1} saddr . tcp sport @{2} drop\n"
        "add rule inet {0} output {1} saddr . tcp sport . {1} daddr . tcp dport @{2} drop\n",
        name_, version, set, set == std::string_view("connections4") ? "ipv4" : "ipv6");
  for (const auto& [ours, other] : connections)
    commands += fmt::format("add element inet {} {} {{ {} . {} . {} . {} }}\n", name_,
                            ours.is_ipv4() ? "connections4" : "connections6", ours.host(),
                            ours.port, other.host(), other.port);
  if (const std::string why = run_nft(commands); !why.empty())
    throw Error("cannot lock the network of the tree's connections", why,
                "be root, on a kernel with nftables (nf_tables, nft_set_hash)");
}

NetworkLock::~NetworkLock() {
  if (!stays_) remove(name_);
}

std::string NetworkLock::command_to_remove(const std::string& name) {
  return "nft delete table inet " + name;
}

std::string NetworkLock::remove(const std::string& name) {
  return run_nft("delete table inet " + name + "\n");
}

// Matches of iptables-nft are comments there ("xt match …"), which cannot be read again.
std::pair<std::string, std::string> list_filters() {
  std::string script;
  if (std::string why = run_nft("list ruleset", &script); !why.empty()) return {"", std::move(why)};
  if (script.find("# xt_") != script.npos || script.find("xt match") != script.npos ||
      script.find("xt target") != script.npos)
    return {"", "they have extensions of iptables, which nftables does not tell of"};
  return {std::move(script), ""};
}

std::string set_filters(const std::string& script) {
  return run_nft(script);
}

}  // namespace snapgdb

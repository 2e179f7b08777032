// A network of its own: a bridge with a pair of links in it, addresses of both versions, routes
// through gateways, tables, rules, settings, filters; and sockets that are bound there.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "spaces.h"
#include "target.h"

namespace {

using target::expect_equal;
using target::setup;

std::string output_of(const std::string& command) {
  FILE* pipe = popen(("PATH=$PATH:/sbin:/usr/sbin; " + command).c_str(), "r");
  if (!pipe) target::cannot(command.c_str());
  std::string text;
  for (int c = 0; (c = getc(pipe)) != EOF;) text += static_cast<char>(c);
  if (pclose(pipe) != 0) target::cannot(command.c_str());
  return text;
}

void run(const std::string& command) {
  if (!output_of(command).empty()) target::cannot(command.c_str());
}

// Those of a bridge that do not count the time.
constexpr const char* kQuestions[] = {
    "ip -o link",
    "ip -o addr",
    "ip -4 route show table all",
    "ip -6 route show table all | sort",
    "ip -4 rule",
    "ip -6 rule",
    "ip neigh show nud permanent",
    "ip -d link show bridge0 | grep -o 'ageing_time [0-9]*\\|stp_state [0-9]*\\|priority [0-9]*'",
    "sysctl -n net.ipv4.ip_forward net.ipv4.conf.inner.rp_filter net.ipv4.ip_local_port_range "
    "net.ipv6.conf.inner.accept_ra net.ipv4.conf.all.arp_ignore net.core.somaxconn",
    "nft list ruleset"};

// Bound to an address that only this network has.
int listen_at(const char* address, uint16_t port) {
  const int listener = setup("socket", socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in name{.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {}, .sin_zero = {}};
  inet_pton(AF_INET, address, &name.sin_addr);
  setup("bind", bind(listener, reinterpret_cast<sockaddr*>(&name), sizeof name));
  setup("listen", listen(listener, 3));
  return listener;
}

int connect_to(const char* address, uint16_t port) {
  const int caller = setup("socket", socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in name{.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {}, .sin_zero = {}};
  inet_pton(AF_INET, address, &name.sin_addr);
  setup("connect", connect(caller, reinterpret_cast<sockaddr*>(&name), sizeof name));
  return caller;
}

}  // namespace

Check own_network() {
  setup("unshare", unshare(CLONE_NEWNET));
  run("ip link set lo up");
  run("ip link add bridge0 address 02:00:00:00:00:01 type bridge ageing_time 12300 priority 7");
  run("ip link add inner address 02:00:00:00:00:02 mtu 1400 type veth "
      "peer name outer address 02:00:00:00:00:03");
  run("ip link set outer master bridge0");
  run("for link in bridge0 inner outer; do ip link set $link up; done");
  run("ip addr add 10.77.0.1/24 dev inner; ip addr add 10.77.1.1/32 dev lo");
  run("ip addr add fd00:77::1/64 dev inner nodad; ip link set inner alias 'an alias'");
  run("ip route add 192.0.2.0/24 via 10.77.0.9 metric 5; ip route add default via 10.77.0.254");
  run("ip route add blackhole 198.51.100.0/24; ip -6 route add 2001:db8::/32 via fd00:77::9");
  run("ip route add 203.0.113.0/24 dev inner table 100");
  run("ip rule add from 10.77.1.1 table 100 priority 500; ip -6 rule add fwmark 7 table 100");
  run("ip neigh add 10.77.0.9 lladdr 02:00:00:00:00:99 dev inner nud permanent");
  run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.inner.rp_filter=2 "
      "net.ipv6.conf.inner.accept_ra=0 net.ipv4.conf.all.arp_ignore=1");
  run("sysctl -qw net.ipv4.ip_local_port_range='20000 30000' net.core.somaxconn=77");
  run("nft add table inet mine; nft add chain inet mine in '{ type filter hook input priority 5; "
      "}';"
      "nft add rule inet mine in tcp dport 4321 counter drop");
  while (output_of("ip -o addr").find("tentative") != std::string::npos) target::sleep_ms(50);
  const int listener = listen_at("10.77.0.1", 4711), caller = connect_to("10.77.0.1", 4711);
  const int accepted = setup("accept", accept(listener, nullptr, nullptr));
  setup("write", write(caller, "on its way", 10));
  std::vector<std::string> answers;
  for (const char* question : kQuestions) answers.push_back(output_of(question));
  return [=] {
    for (size_t i = 0; i < answers.size(); ++i)
      expect_text(kQuestions[i], output_of(kQuestions[i]), answers[i]);
    char text[16] = {};
    target::expect_call("read", read(accepted, text, sizeof text - 1));
    expect_text("what was on its way", text, "on its way");
    const int another = connect_to("10.77.0.1", 4711);
    target::expect_call("accept", accept(listener, nullptr, nullptr));
    expect_equal("writing", write(another, "x", 1), 1);
  };
}

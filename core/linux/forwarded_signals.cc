#include "core/linux/forwarded_signals.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>

namespace snapgdb {
namespace {

constexpr std::array kForwarded{SIGINT,  SIGTERM, SIGQUIT,  SIGHUP,
                                SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT};

std::atomic<pid_t> forward_to{0};
std::atomic<bool> is_of_our_group{false};

void forward(int signal, siginfo_t* info, void*) {
  const bool is_from_terminal = info->si_code == SI_KERNEL;
  if (is_from_terminal && is_of_our_group) return;
  if (const pid_t to = forward_to) ::kill(to, signal);
}

}  // namespace

void forward_signals_to(Pid pid) {
  forward_to = pid.value;
  is_of_our_group = ::getpgid(pid.value) == ::getpgrp();
  struct sigaction action {};
  action.sa_sigaction = forward;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  for (const int signal : kForwarded) {
    struct sigaction before {};
    ::sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) ::sigaction(signal, &action, nullptr);
  }
}

void forward_no_signals() {
  forward_to = 0;
}

ForwardingPause::ForwardingPause() : to_(forward_to.exchange(0)) {}

ForwardingPause::~ForwardingPause() {
  forward_to = to_;
}

}  // namespace snapgdb

// Message queues and semaphores, of POSIX and of System V.

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "blocking_family.h"

namespace target {
namespace {

using enum AfterStop;

int semaphores, messages;
mqd_t queue;

const BlockingCall kTimed[] = {
    {"mq_receive",
     SYS_mq_timedreceive,
     kGoesOn,
     {-1, ETIMEDOUT},
     [](uint64_t ns) {
       return until(CLOCK_REALTIME, ns, [](const timespec* t) {
         char message[8];
         return static_cast<long>(mq_timedreceive(queue, message, sizeof message, nullptr, t));
       });
     }},
    {"semtimedop",
     SYS_semtimedop,
     kFails,
     {-1, EAGAIN},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         sembuf down{0, -1, 0};
         return static_cast<long>(semtimedop(semaphores, &down, 1, t));
       });
     }},
};

struct Message {
  long type;
  char text[4];
};

long receive_message(uint64_t) {
  Message message;
  return msgrcv(messages, &message, sizeof message.text, 0, 0);
}

void send_message(const Thread&) {
  const Message message{1, "yes"};
  setup("msgsnd", msgsnd(messages, &message, sizeof message.text, 0));
}

const BlockingCall kEndless[] = {
    {"msgrcv", SYS_msgrcv, kGoesOn, {4}, receive_message, send_message},
    {"semop",
     SYS_semop,
     kFails,
     {},
     [](uint64_t) {
       sembuf down{1, -1, 0};
       return syscall(SYS_semop, semaphores, &down, 1);
     },
     [](const Thread&) {
       sembuf up{1, 1, 0};
       semop(semaphores, &up, 1);
     }},
};

// The name is gone before anyone can see it.
mqd_t open_message_queue() {
  const std::string name = "/snapgdb-target-" + std::to_string(getpid());
  mq_attr attributes{};
  attributes.mq_maxmsg = 1;
  attributes.mq_msgsize = 8;
  const mqd_t queue =
      mq_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600, &attributes);
  setup("mq_open", queue);
  mq_unlink(name.c_str());
  return queue;
}

void prepare() {
  semaphores = setup("semget", semget(IPC_PRIVATE, 2, 0600));
  messages = setup("msgget", msgget(IPC_PRIVATE, 0600));
  queue = open_message_queue();
}

void end() {
  semctl(semaphores, 0, IPC_RMID);
  msgctl(messages, IPC_RMID, nullptr);
}

}  // namespace

const BlockingFamily kQueueCalls{kTimed, kEndless, prepare, end};

}  // namespace target

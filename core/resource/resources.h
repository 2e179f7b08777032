#pragma once

#include "core/resource/resource.h"
#include "core/resource/restorer.h"
#include "core/resource/socket.h"

// The one ordered list of what a snapshot holds. A name here is a constant defined in the file of
// its resource; adding one is all it takes to register it.

// Identity first: it is what everything else is reported against. Descriptors stand before the
// memory map, which finds deleted files through them.
#define SNAPGDB_PROCESS_RESOURCES(ROW) \
  ROW(kProcessIdentity)                \
  ROW(kProgram)                        \
  ROW(kSignalMasks)                    \
  ROW(kSignalQueue)                    \
  ROW(kInsideProcess)                  \
  ROW(kSeccomp)                        \
  ROW(kLimits)                         \
  ROW(kNamespaces)                     \
  ROW(kDescriptorTable)                \
  ROW(kMemoryMap)                      \
  ROW(kAio)

#define SNAPGDB_THREAD_RESOURCES(ROW) \
  ROW(kThreadIdentity)                \
  ROW(kInsideThread)                  \
  ROW(kSeccompThread)                 \
  ROW(kRegisters)                     \
  ROW(kThreadSignalMasks)             \
  ROW(kThreadSignals)                 \
  ROW(kCredentials)                   \
  ROW(kScheduling)

// The first whose matcher says yes is taken; kOther takes what is left.
#define SNAPGDB_DESCRIPTOR_RESOURCES(ROW) \
  ROW(kPipe)                              \
  ROW(kSocket)                            \
  ROW(kMemfd)                             \
  ROW(kSecretMemory)                      \
  ROW(kMessageQueue)                      \
  ROW(kRegularFile)                       \
  ROW(kDirectory)                         \
  ROW(kDevice)                            \
  ROW(kEventFd)                           \
  ROW(kTimerFd)                           \
  ROW(kSignalFd)                          \
  ROW(kEpoll)                             \
  ROW(kInotify)                           \
  ROW(kFanotify)                          \
  ROW(kPidFd)                             \
  ROW(kIoUring)                           \
  ROW(kOther)

// Restoring, once there is memory (restore_memory): descriptors close the files it is mapped from.
// Limits come last, since they would bind what comes before.
#define SNAPGDB_PROCESS_RESTORERS(ROW) \
  ROW(kProgramRestorer)                \
  ROW(kInsideRestorer)                 \
  ROW(kSemaphoreUndoRestorer)          \
  ROW(kAioRestorer)                    \
  ROW(kIoUringRestorer)                \
  ROW(kDescriptorRestorer)             \
  ROW(kSealRestorer)                   \
  ROW(kLimitRestorer)

// Credentials last: they may take away the right to do the rest.
#define SNAPGDB_THREAD_RESTORERS(ROW) \
  ROW(kThreadIdentityRestorer)        \
  ROW(kInsideThreadRestorer)          \
  ROW(kRegisterRestorer)              \
  ROW(kSchedulingRestorer)            \
  ROW(kSeccompRestorer)               \
  ROW(kCredentialRestorer)

#define SNAPGDB_DESCRIPTOR_RESTORERS(ROW) \
  ROW(kPipeRestorer)                      \
  ROW(kSocketRestorer)                    \
  ROW(kMemfdRestorer)                     \
  ROW(kMessageQueueRestorer)              \
  ROW(kRegularFileRestorer)               \
  ROW(kDirectoryRestorer)                 \
  ROW(kDeviceRestorer)                    \
  ROW(kEventFdRestorer)                   \
  ROW(kEpollRestorer)                     \
  ROW(kInotifyRestorer)                   \
  ROW(kFanotifyRestorer)                  \
  ROW(kTimerFdRestorer)                   \
  ROW(kSignalFdRestorer)                  \
  ROW(kIoUringFileRestorer)               \
  ROW(kPidFdRestorer)

// Sockets, by their domain.
#define SNAPGDB_SOCKET_FAMILIES(ROW) \
  ROW(kUnixSockets)                  \
  ROW(kInetSockets)                  \
  ROW(kInet6Sockets)                 \
  ROW(kNetlinkSockets)               \
  ROW(kPacketSockets)

namespace snapgdb {

#define SNAPGDB_DECLARE_PROCESS(name) extern const ProcessResource name;
#define SNAPGDB_DECLARE_THREAD(name) extern const ThreadResource name;
#define SNAPGDB_DECLARE_DESCRIPTOR(name) extern const DescriptorResource name;
SNAPGDB_PROCESS_RESOURCES(SNAPGDB_DECLARE_PROCESS)
SNAPGDB_THREAD_RESOURCES(SNAPGDB_DECLARE_THREAD)
SNAPGDB_DESCRIPTOR_RESOURCES(SNAPGDB_DECLARE_DESCRIPTOR)
#define SNAPGDB_DECLARE_PROCESS_RESTORER(name) extern const ProcessRestorer name;
#define SNAPGDB_DECLARE_THREAD_RESTORER(name) extern const ThreadRestorer name;
#define SNAPGDB_DECLARE_DESCRIPTOR_RESTORER(name) extern const DescriptorRestorer name;
SNAPGDB_PROCESS_RESTORERS(SNAPGDB_DECLARE_PROCESS_RESTORER)
SNAPGDB_THREAD_RESTORERS(SNAPGDB_DECLARE_THREAD_RESTORER)
SNAPGDB_DESCRIPTOR_RESTORERS(SNAPGDB_DECLARE_DESCRIPTOR_RESTORER)
#define SNAPGDB_DECLARE_SOCKET_FAMILY(name) extern const SocketFamily name;
SNAPGDB_SOCKET_FAMILIES(SNAPGDB_DECLARE_SOCKET_FAMILY)
#undef SNAPGDB_DECLARE_SOCKET_FAMILY
#undef SNAPGDB_DECLARE_PROCESS_RESTORER
#undef SNAPGDB_DECLARE_THREAD_RESTORER
#undef SNAPGDB_DECLARE_DESCRIPTOR_RESTORER
#undef SNAPGDB_DECLARE_PROCESS
#undef SNAPGDB_DECLARE_THREAD
#undef SNAPGDB_DECLARE_DESCRIPTOR

}  // namespace snapgdb

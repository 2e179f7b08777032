#include "libwitness.h"

thread_local long libwitness_tls = 0x11b;
long libwitness_global = 0x11b0000000000011;

long libwitness_call(long (*callback)(long), long argument) {
  volatile long marked_local = argument * 3;
  const long result = callback(argument + 1);
  return result + marked_local;
}

#pragma once

// A shared object of its own, so that a debugger needs its symbols, lines and thread-local storage.
extern "C" {
extern thread_local long libwitness_tls;
extern long libwitness_global;

// Calls back, with a frame of this library between.
long libwitness_call(long (*callback)(long), long argument);
}

#pragma once

// xxHash with the widest vectors that the processor has: 20 GB/s where SSE2 makes 8.
#if __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

// The program in the golden images: no library, so that the image stays small. Two processes, which
// hold a page of 'g', a page of zeros and a page equal to the first.

#include <asm/unistd.h>

static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
}

char pages[3][4096] __attribute__((aligned(4096))) = {{1}};
volatile int answer = 42;

static void wait_for_ever(void) {
  while (1) call(__NR_pause, 0, 0, 0);
}

__attribute__((force_align_arg_pointer)) void _start(void) {
  for (int i = 0; i < 4096; ++i) pages[0][i] = pages[2][i] = 'g';
  for (int i = 0; i < 4096; ++i) ((volatile char*)pages[1])[i] = 0;
  if (call(__NR_fork, 0, 0, 0) == 0) wait_for_ever();
  call(__NR_write, 1, (long)"ready\n", 6);
  wait_for_ever();
}

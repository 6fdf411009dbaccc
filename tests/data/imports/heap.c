/* What the imported logs are of: mappings that grow, shrink, move and go, with known touches. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define PAGE 4096L
static char *map(long pages) {
    return mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 1;
    volatile char *a = map(64), *b = map(32), *c = map(16);
    for (long i = 0; i < 64; i++) a[i * PAGE] = 1;
    for (long i = 0; i < 8; i++) (void)b[i * PAGE];
    for (long i = 0; i < 16; i++) c[i * PAGE] = 1;
    madvise((char *)a + 16 * PAGE, 16 * PAGE, MADV_DONTNEED);
    for (long i = 16; i < 20; i++) a[i * PAGE] = 1;
    volatile char *d = mremap((char *)c, 16 * PAGE, 40 * PAGE, MREMAP_MAYMOVE);
    d[20 * PAGE] = 1;
    munmap((char *)b, 32 * PAGE);
    volatile char *heap = sbrk(20 * PAGE);
    for (long i = 0; i < 10; i++) heap[i * PAGE] = 1;
    for (long r = 0; r < rounds; r++)
        for (long i = 0; i < 16; i++) a[i * PAGE]++;
    return 0;
}

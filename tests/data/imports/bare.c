/* No C library: a log of lackey that is small. */
#define PAGE 4096L
static long call(long n, long a, long b, long c, long d, long e, long f) {
    long r;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return r;
}
#define map(pages) (volatile char *)call(9, 0, (pages) * PAGE, 3, 0x22, -1, 0)
void _start(void) {
    volatile char *a = map(64), *b = map(32), *c = map(16);
    for (long i = 0; i < 64; i++) a[i * PAGE] = 1;
    for (long i = 0; i < 8; i++) (void)b[i * PAGE];
    for (long i = 0; i < 16; i++) c[i * PAGE] = 1;
    call(28, (long)a + 16 * PAGE, 16 * PAGE, 4, 0, 0, 0);
    for (long i = 16; i < 20; i++) a[i * PAGE] = 1;
    volatile char *d = (volatile char *)call(25, (long)c, 16 * PAGE, 40 * PAGE, 1, 0, 0);
    d[20 * PAGE] = 1;
    call(11, (long)b, 32 * PAGE, 0, 0, 0, 0);
    long start = call(12, 0, 0, 0, 0, 0, 0);
    call(12, start + 20 * PAGE, 0, 0, 0, 0, 0);
    for (long i = 0; i < 10; i++) ((volatile char *)start)[i * PAGE] = 1;
    call(231, 0, 0, 0, 0, 0, 0);
}

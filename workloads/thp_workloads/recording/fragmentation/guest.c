// The first process of a small virtual machine: fragments its memory by a pattern, then allocates folios of one
// order after the other. What the kernel says before and after goes to the console, one JSON object a line.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096UL
#define PMD (2UL << 20)
#define THP "/sys/kernel/mm/transparent_hugepage/"

static char text[1 << 16];

static const char *slurp(const char *path) {
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(fd);
    return text;
}

static void put(const char *path, const char *value) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, value, strlen(value)) < 0) printf("FAILED %s\n", path);
    close(fd);
}

static long field(const char *path, const char *name) {
    const char *at = strstr(slurp(path), name);
    return at ? atol(at + strlen(name)) : -1;
}

static long stat_of(int order, const char *name) {
    char path[256];
    snprintf(path, sizeof path, THP "hugepages-%lukB/stats/%s", PAGE >> 10 << order, name);
    return atol(slurp(path));
}

static void enable(int order, const char *mode) {
    char path[256];
    snprintf(path, sizeof path, THP "hugepages-%lukB/enabled", PAGE >> 10 << order);
    put(path, mode);
}

static void quoted(const char *path) {
    for (const char *c = slurp(path); *c; ++c) {
        if (*c == '\n') printf("\\n");
        else if (*c == '"' || *c == '\\' || *c == '\t') putchar(' ');
        else putchar(*c);
    }
}

static void state(const char *when, long value) {
    static const char *const events[] = {"compact_stall ", "compact_fail ", "compact_success ",
        "compact_migrate_scanned ", "compact_free_scanned ", "pgmigrate_success ", "pgmigrate_fail ",
        "compact_daemon_wake ", "pageoutrun ", "nr_free_pages "};
    printf("REC {\"when\":\"%s\",\"value\":%ld,\"buddyinfo\":\"", when, value);
    quoted("/proc/buddyinfo");
    printf("\",\"pagetypeinfo\":\"");
    quoted("/proc/pagetypeinfo");
    printf("\",\"min_free_kbytes\":%ld", atol(slurp("/proc/sys/vm/min_free_kbytes")));
    for (unsigned i = 0; i < sizeof events / sizeof *events; ++i) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strlen(events[i]) - 1, events[i]);
        printf(",\"%s\":%ld", name, field("/proc/vmstat", events[i]));
    }
    printf("}\n");
}

static char *map(size_t bytes) {
    char *at = mmap(NULL, bytes + PMD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return (char *)(((uintptr_t)at + PMD - 1) & ~(PMD - 1));
}

// The frame behind an address (Documentation/admin-guide/mm/pagemap.rst).
static uint64_t frame(const char *at) {
    static int fd = -1;
    uint64_t entry = 0;
    if (fd < 0) fd = open("/proc/self/pagemap", O_RDONLY);
    if (pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)at / PAGE * sizeof entry)) != sizeof entry)
        printf("FAILED pagemap\n");
    return entry & ((1ULL << 55) - 1);
}

static char *sparse;
static size_t sparse_used;
static void touch_sparse(void) { sparse[sparse_used++ * PMD] = 1; }

int main(void) {
    char pattern[32] = "page", pollution[32] = "none", defrag[32] = "never";
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    const char *args = strstr(slurp("/proc/cmdline"), "frag=");
    if (args) sscanf(args, "frag=%31[^,],%31[^,],%31[^, \n]", pattern, pollution, defrag);
    put(THP "enabled", "never");
    put(THP "defrag", defrag);
    put(THP "khugepaged/defrag", "0");
    put("/proc/sys/vm/compaction_proactiveness", "0");
    put("/proc/sys/vm/overcommit_memory", "1");
    put("/proc/sys/vm/percpu_pagelist_high_fraction", "100000"); // few free pages hide in the lists of the CPU
    for (int order = 2; order <= 9; ++order) enable(order, "never");
    put("/proc/sys/vm/drop_caches", "3");
    sparse = map(8192 * PMD);
    sleep(2); // until what the kernel does after booting is done
    state("start", 0);

    // Fill, but for 40 MiB. Every 64th page also one page table and its page: unmovable beside movable.
    long keep = 40 << 8, tables = 0, total = field("/proc/meminfo", "MemFree:") / 4 - keep;
    int early = !strcmp(pollution, "early"), late = !strcmp(pollution, "late");
    if (early) tables = 2048;
    if (late) tables = 3000;
    long pages = total - 2 * tables;
    char *fill = map(pages * PAGE);
    for (long i = 0; i < pages; ++i) {
        fill[i * PAGE] = 1;
        if (early && i % (pages / tables) == 0 && (long)sparse_used < tables) touch_sparse();
    }
    if (late) // the last memory: what is left of other types' blocks
        while ((long)sparse_used < tables) touch_sparse();
    state("full", pages);

    // Give back by the pattern: aligned granules of physical memory, so that it does not matter where filling began.
    long granule = 1, given = 0;
    uint32_t random = 1;
    if (!strcmp(pattern, "16K")) granule = 4;
    if (!strcmp(pattern, "64K")) granule = 16;
    if (!strcmp(pattern, "256K")) granule = 64;
    if (!strcmp(pattern, "2M")) granule = 512;
    for (long i = 0; i < pages; ++i) {
        int give = (frame(fill + i * PAGE) / granule) % 2;
        if (!strcmp(pattern, "random")) {
            random = random * 1664525 + 1013904223;
            give = random >> 31;
        }
        if (give) madvise(fill + i * PAGE, PAGE, MADV_DONTNEED);
        given += give;
    }
    state("freed", given);

    // Who may compact for an order up to 3 waits until the OOM killer ends it, if compaction fails.
    for (int order = strcmp(defrag, "never") ? 4 : 2; order <= 9; ++order) {
        size_t size = PAGE << order, blocks = (96UL << 20) / size;
        char *at = map(blocks * size);
        madvise(at, blocks * size, MADV_HUGEPAGE);
        enable(order, "always");
        long got = stat_of(order, "anon_fault_alloc"), failed = stat_of(order, "anon_fault_fallback");
        for (size_t i = 0; i < blocks; ++i) at[i * size] = 1;
        got = stat_of(order, "anon_fault_alloc") - got;
        failed = stat_of(order, "anon_fault_fallback") - failed;
        enable(order, "never");
        printf("REC {\"when\":\"allocated\",\"order\":%d,\"blocks\":%zu,\"got\":%ld,\"failed\":%ld}\n", order, blocks,
               got, failed);
        state("order", order);
        munmap(at, blocks * size);
    }
    state("end", 0);
    fflush(stdout);
    sync();
    reboot(RB_AUTOBOOT);
    return 0;
}

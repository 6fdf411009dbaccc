#include "home.hpp"
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

namespace live {

namespace {

constexpr uint64_t TASK_SIZE = 0x7ffffffff000, STACK = 64 << 10, LOWEST = 64 << 10;
constexpr uint64_t HIGHEST = 4 << 20;          // below it the process itself lies
constexpr uint64_t MMAP_BASE = 0x7ffff7fff000; // without randomization, and with a stack of 128 MiB at most
alignas(64) char stack[STACK];
int (*next)();

void run() { _exit(next()); }

// Calls f(start, end, line) for every mapping of the process.
template <typename F> void for_each_mapping(F f) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    while (maps && fgets(line, sizeof line, maps)) {
        char *tail = line; // start-end rights ...
        const uint64_t start = strtoull(tail, &tail, 16);
        if (*tail++ != '-') continue;
        const uint64_t end = strtoull(tail, &tail, 16);
        f(start, end, tail);
    }
    if (maps) fclose(maps);
}

} // namespace

void without_randomization(char **argv) {
    const int now = personality(0xffffffff);
    if (now < 0 || (now & ADDR_NO_RANDOMIZE)) return;
    if (personality(static_cast<unsigned long>(now) | ADDR_NO_RANDOMIZE) >= 0) execv("/proc/self/exe", argv);
}

void on_own_stack(int (*then)()) {
    static ucontext_t context;
    next = then;
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = sizeof stack;
    makecontext(&context, run, 0);
    setcontext(&context);
    abort();
}

int move_in() {
    range gone[8];
    int nr = 0;
    for_each_mapping([&](uint64_t start, uint64_t end, const char *tail) {
        const char *name = strchr(tail, '[');
        const bool is_kernels = name && (strncmp(name, "[v", 2) == 0 || strncmp(name, "[stack", 6) == 0);
        if (is_kernels && end <= TASK_SIZE && nr < 8) gone[nr++] = {start, end};
    });
    for (int i = 0; i < nr; ++i) {
        void *start = reinterpret_cast<void *>(gone[i].start); // NOLINT(performance-no-int-to-ptr)
        if (munmap(start, gone[i].end - gone[i].start)) return errno;
    }
    return 0;
}

int own_ranges(range *out, int most) {
    int nr = 0;
    for_each_mapping([&](uint64_t start, uint64_t end, const char *tail) {
        if (end <= TASK_SIZE && tail[1] == 'r' && nr < most) out[nr++] = {start, end};
    });
    return nr;
}

int place_program(uint64_t brk_start, uint64_t mmap_base) {
    bool in_the_way = false;
    for_each_mapping([&](uint64_t, uint64_t end, const char *) {
        in_the_way = in_the_way || (end > HIGHEST && end <= TASK_SIZE);
    });
    if (in_the_way) return EEXIST;
    // All at once: then no capability is asked for. What is not the heap's only has to be in order.
    prctl_mm_map map = {};
    map.start_code = map.start_data = map.start_stack = LOWEST;
    map.end_code = map.end_data = LOWEST + 1;
    map.arg_start = map.arg_end = map.env_start = map.env_end = LOWEST;
    map.start_brk = map.brk = brk_start;
    map.exe_fd = ~0U;
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0)) return errno;
    if (mmap_base > MMAP_BASE) return ERANGE;
    if (mmap_base == MMAP_BASE) return 0;
    // Mapped from a file: it merges with nothing of the program's.
    const int file = static_cast<int>(syscall(SYS_memfd_create, "above", 0U));
    if (file < 0) return errno;
    void *base = reinterpret_cast<void *>(mmap_base); // NOLINT(performance-no-int-to-ptr)
    void *above = mmap(base, MMAP_BASE - mmap_base, PROT_NONE, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
    const int error = errno;
    close(file);
    return above == MAP_FAILED ? error : 0;
}

} // namespace live

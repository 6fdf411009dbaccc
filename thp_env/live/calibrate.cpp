// Measures what memory calls and faults take on this host, for calibrate.py: one line a measurement,
// "name median p10 p90 samples" in ns, or "name - why it could not be measured".
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

constexpr size_t PAGE = 4096, PMD = 2 << 20, PAGES = PMD / PAGE;
constexpr int HUGEPAGE = 14, NOHUGEPAGE = 15, COLLAPSE = 25;

int64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

double overhead;

using samples = std::vector<double>;

template <typename F> void time(samples &into, F &&what) {
    const int64_t start = now();
    what();
    into.push_back(std::max(0.0, static_cast<double>(now() - start) - overhead));
}

double at(samples &s, double share) {
    const size_t i = std::min(s.size() - 1, static_cast<size_t>(share * static_cast<double>(s.size())));
    std::nth_element(s.begin(), s.begin() + static_cast<std::ptrdiff_t>(i), s.end());
    return s[i];
}

void report(const char *name, samples s) {
    if (s.empty()) {
        std::printf("%s - no sample\n", name);
        return;
    }
    const double median = at(s, 0.5), low = at(s, 0.1), high = at(s, 0.9);
    std::printf("%s %.2f %.2f %.2f %zu\n", name, median, low, high, s.size());
    std::fflush(stdout);
}

// Anonymous memory of whole 2M blocks.
struct area {
    char *raw, *start;
    size_t length;

    area(size_t bytes, int advice) : length(bytes) {
        void *address =
            mmap(nullptr, bytes + PMD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (address == MAP_FAILED) {
            std::perror("mmap");
            std::exit(1);
        }
        raw = static_cast<char *>(address);
        start = raw + (PMD - reinterpret_cast<uintptr_t>(raw) % PMD) % PMD;
        madvise(start, bytes, advice);
    }
    ~area() { munmap(raw, length + PMD); }
    area(const area &) = delete;
    area &operator=(const area &) = delete;
    area(area &&) = delete;
    area &operator=(area &&) = delete;

    volatile char &page(size_t i) const { return start[i * PAGE]; }
    void fill() const {
        for (size_t i = 0; i < length / PAGE; i++) {
            page(i) = 1;
        }
    }
};

int64_t faults() {
    rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_minflt;
}

bool huge_pages() {
    const area a(PMD, HUGEPAGE);
    a.page(0) = 1;
    const int64_t before = faults();
    a.page(PAGES - 1) = 1;
    return faults() == before;
}

// -- what is measured ---------------------------------------------------------------------------------------

void cycle() {
    samples s;
    volatile uint64_t factor = 0x9E3779B97F4A7C15;
    const uint64_t by = factor;
    for (int round = 0; round < 200; round++) {
        uint64_t x = 3;
        const int64_t start = now();
        for (int i = 0; i < 10'000; i++) {
            x *= by; // three cycles on every core of today, each after the one before
            __asm__ volatile("" : "+r"(x));
        }
        s.push_back(static_cast<double>(now() - start) / 30'000);
    }
    report("cycle", std::move(s));
}

void write_faults(const char *name, size_t bytes, size_t step, int advice, int rounds) {
    samples s;
    for (int round = 0; round < rounds; round++) {
        const area a(bytes, advice);
        samples kept;
        for (size_t i = 0; i < bytes / PAGE; i += step) {
            time(kept, [&] { a.page(i) = 1; });
            const int64_t before = faults();
            a.page(i + step - 1) = 1;
            if (faults() != before) { // no folio of this size came
                kept.pop_back();
            }
        }
        if (round || rounds == 1) { // the first finds memory that others have left
            s.insert(s.end(), kept.begin(), kept.end());
        }
    }
    report(name, std::move(s));
}

// What page walks add to an access to a random line that waits for the one before: the difference between
// pages of 4K and of 2M, measured in turn. The more memory, the fewer of its page tables are in the caches.
// The pages of 4K were one of 2M, so they follow each other in memory, whatever state the host's is in.
void walks(const char *name, size_t bytes) {
    constexpr size_t READS = 100'000;
    const area small(bytes, HUGEPAGE), large(bytes, HUGEPAGE);
    samples s;
    uint64_t next = 1;
    small.fill();
    large.fill();
    for (size_t at = 0; at < bytes; at += PMD) {
        madvise(small.start + at, PAGE, MADV_DONTNEED); // which splits the PMD
        small.start[at] = 1;
    }
    for (int round = 0; round < 15; round++) {
        double ns[2];
        for (const area *a : {&small, &large}) {
            const int64_t start = now();
            for (size_t i = 0; i < READS; i++) {
                next = next * 6364136223846793005 + 1442695040888963407;
                next += static_cast<unsigned char>(a->start[(next >> 20) & (bytes - 64)]);
            }
            ns[a == &large] = static_cast<double>(now() - start) / READS;
        }
        s.push_back(std::max(0.0, ns[0] - ns[1]));
    }
    volatile uint64_t used = next; // so that the reads are not left out
    static_cast<void>(used);
    report(name, std::move(s));
}

// Faults between the accesses of a program: what they spoil in the caches and the TLB counts too. Each sample
// is the mean of a batch of faults, less what the accesses take by themselves.
void faults_at_work() {
    constexpr size_t SET = 4 << 20, LINES = SET / 64, READS = 256, BATCH = 64;
    const area set(SET, NOHUGEPAGE);
    set.fill();
    samples s;
    uint64_t sum = 0, next = 1;
    for (int round = 0; round < 8; round++) {
        const area a(4 * PMD, NOHUGEPAGE);
        for (size_t first = 0; first < 4 * PAGES; first += BATCH) {
            int64_t took[2];
            for (int64_t &t : took) { // the second time the pages are there
                const int64_t start = now();
                for (size_t i = first; i < first + BATCH; i++) {
                    a.page(i) = 1;
                    for (size_t read = 0; read < READS; read++) {
                        next = next * 6364136223846793005 + 1442695040888963407;
                        sum += static_cast<unsigned char>(set.start[(next >> 40) % LINES * 64]);
                    }
                }
                t = now() - start;
            }
            s.push_back(static_cast<double>(took[0] - took[1]) / BATCH);
        }
    }
    volatile uint64_t used = sum; // so that the reads are not left out
    static_cast<void>(used);
    report("fault_at_work", std::move(s));
}

void read_faults() {
    samples s;
    for (int round = 0; round < 4; round++) {
        const area a(4 * PMD, NOHUGEPAGE);
        for (size_t i = 0; i < 4 * PAGES; i++) {
            time(s, [&] { [[maybe_unused]] const char seen = a.page(i); });
        }
    }
    report("read_fault", std::move(s));
}

// Forks a child that waits until it is killed; what the parent does meanwhile copies on write.
void copies() {
    samples copy, reuse;
    for (int round = 0; round < 4; round++) {
        const area a(4 * PMD, NOHUGEPAGE);
        a.fill();
        const pid_t child = fork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, 9);
            for (;;) {
                pause();
            }
        }
        for (size_t i = 0; i < 2 * PAGES; i++) {
            time(copy, [&] { a.page(i) = 2; });
        }
        kill(child, 9);
        waitpid(child, nullptr, 0);
        for (size_t i = 2 * PAGES; i < 4 * PAGES; i++) {
            time(reuse, [&] { a.page(i) = 2; });
        }
    }
    report("copy_fault", std::move(copy));
    report("reuse_fault", std::move(reuse));
}

void forks(const char *name, size_t bytes, int advice, bool split) {
    samples s;
    const area a(std::max(bytes, PMD), advice);
    if (bytes) {
        a.fill();
    }
    for (size_t block = 0; split && block < bytes / PMD; block++) {
        madvise(a.start + block * PMD, PAGE, MADV_DONTNEED);
    }
    for (int round = 0; round < 31; round++) {
        pid_t child = 0;
        time(s, [&] {
            child = fork();
            if (child == 0) {
                _exit(0);
            }
        });
        waitpid(child, nullptr, 0);
    }
    report(name, std::move(s));
}

// Takes memory and gives it back, so that a hypervisor has backed what the next measurement gets.
void warm(bool huge) {
    const area a(192 * PMD, huge ? HUGEPAGE : NOHUGEPAGE);
    a.fill();
}

// MADV_DONTNEED of 2M: of pages, of what a PMD maps, and of parts.
void zaps(bool huge) {
    samples small, whole, first, second, rest;
    for (int round = 0; round < 200; round++) {
        const area a(PMD, NOHUGEPAGE);
        a.fill();
        time(small, [&] { madvise(a.start, PMD, MADV_DONTNEED); });
        if (huge) {
            const area b(PMD, HUGEPAGE), c(PMD, HUGEPAGE);
            b.page(0) = 1;
            c.page(0) = 1;
            time(whole, [&] { madvise(b.start, PMD, MADV_DONTNEED); });
            time(first, [&] { madvise(c.start, PAGE, MADV_DONTNEED); });
            time(second, [&] { madvise(c.start + 8 * PAGE, PAGE, MADV_DONTNEED); });
            time(rest, [&] { madvise(c.start, PMD, MADV_DONTNEED); });
        }
    }
    report("zap_small", std::move(small));
    if (huge) {
        report("zap_whole", std::move(whole));
        report("zap_first", std::move(first));
        report("zap_second", std::move(second));
        report("zap_rest", std::move(rest));
    }
}

void protects(bool huge) {
    samples cut, whole, many;
    for (int round = 0; round < 200; round++) {
        const area a(PMD, NOHUGEPAGE);
        a.page(0) = 1;
        a.page(16) = 1;
        time(cut, [&] { mprotect(a.start + 16 * PAGE, PAGE, PROT_READ); });
        time(whole, [&] { mprotect(a.start + 16 * PAGE, PAGE, PROT_NONE); });
        if (huge) {
            const area b(PMD, HUGEPAGE);
            b.page(0) = 1;
            madvise(b.start, PAGE, MADV_DONTNEED); // the rest is one folio that PTEs map
            mprotect(b.start, PMD, PROT_NONE);     // the VMA is one of its own from here on
            time(many, [&] { mprotect(b.start, PMD, PROT_READ); });
        }
    }
    report("protect_cut", std::move(cut));
    report("protect_whole", std::move(whole));
    if (huge) {
        report("protect_ptes", std::move(many));
    }
}

void collapses() {
    samples one, all, fault;
    for (int round = 0; round < 100; round++) {
        {
            const area a(PMD, HUGEPAGE); // whose zeroing finds the caches as that of a collapse does
            time(fault, [&] { a.page(0) = 1; });
        }
        for (size_t present : {size_t{1}, PAGES}) {
            const area a(PMD, NOHUGEPAGE);
            for (size_t i = 0; i < present; i++) {
                a.page(i) = 1;
            }
            madvise(a.start, PMD, HUGEPAGE);
            int error = 0;
            samples &into = present == 1 ? one : all;
            time(into, [&] { error = madvise(a.start, PMD, COLLAPSE) ? errno : 0; });
            if (error) {
                std::printf("collapse_one - MADV_COLLAPSE: %s\n", std::strerror(error));
                return;
            }
        }
    }
    report("collapse_fault", std::move(fault));
    report("collapse_one", std::move(one));
    report("collapse_all", std::move(all));
}

// What was freed long enough ago has been reported to the hypervisor, which has to back it again.
void after_idle(bool huge, unsigned seconds) {
    {
        const area a(128 * PMD, huge ? HUGEPAGE : NOHUGEPAGE);
        a.fill();
    }
    sleep(seconds);
    write_faults("idle_fault_4K", 16 * PMD, 1, NOHUGEPAGE, 1);
    if (huge) {
        write_faults("idle_fault_2M", 64 * PMD, PAGES, HUGEPAGE, 1);
    }
}

} // namespace

int main(int argc, char **argv) {
    const int idle = argc > 1 ? static_cast<int>(std::strtol(argv[1], nullptr, 10)) : 10;
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    samples timer;
    for (int i = 0; i < 10'000; i++) {
        time(timer, [] {});
    }
    overhead = at(timer, 0.5);
    const bool huge = huge_pages();
    if (!huge) {
        std::printf("write_fault_2M - no folio of 2M came\n");
    }
    cycle();
    const auto pages = static_cast<size_t>(sysconf(_SC_AVPHYS_PAGES));
    for (size_t mib = 64; huge && mib <= 1024 && mib << 20 < pages * PAGE / 4; mib *= 2) {
        walks(("walk_" + std::to_string(mib)).c_str(), mib << 20);
    }
    warm(huge);
    forks("fork_empty", 0, NOHUGEPAGE, false);
    write_faults("write_fault_4K", 8 * PMD, 1, NOHUGEPAGE, 4);
    faults_at_work();
    read_faults();
    warm(huge);
    copies();
    zaps(huge);
    warm(huge);
    protects(huge);
    forks("fork_pages", 32 * PMD, NOHUGEPAGE, false);
    if (huge) {
        warm(huge);
        write_faults("write_fault_2M", 160 * PMD, PAGES, HUGEPAGE, 3); // more than caches hold
        forks("fork_pmds", 32 * PMD, HUGEPAGE, false);
        forks("fork_ptes", 32 * PMD, HUGEPAGE, true);
        warm(huge);
        collapses();
    }
    if (idle > 0) {
        after_idle(huge, static_cast<unsigned>(idle));
    }
    if (huge_pages() != huge) {
        std::printf("settings - they changed meanwhile\n");
    }
    return 0;
}

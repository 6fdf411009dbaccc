// The process that runs a program's operations on the real kernel, one at a time, as it is told over a
// socket. Its own memory is locked, so that whatever the kernel counts comes from the program's regions.
#include "home.hpp"
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

constexpr uint64_t PAGE = 4096, SCRATCH = 0x30000000000; // outside every slot
constexpr unsigned IORING_REGISTER_BUFFERS = 0, IORING_UNREGISTER_BUFFERS = 1;

// The order is that of REQUESTS in workers.py.
enum code : uint64_t {
    START,
    MMAP,
    MUNMAP,
    MPROTECT,
    MREMAP,
    MADVISE,
    MLOCK,
    MUNLOCK,
    PRCTL,
    READ,
    WRITE,
    WRITEZ,
    FILL,
    PIN,
    UNPIN,
    FORK,
    EXIT,
    IOVEC,
    PROCESS_MADVISE,
    CAPDROP,
    PLACE,
    BRK,
    ACCESS
};

struct request {
    uint64_t code, address, length, a, b;
};

struct reply {
    int64_t error, minflt, majflt, pid;
    uint64_t address; // where the kernel has mapped something
};

live::range own[256]; // what this process is made of
int nr_own;
int rings[256]; // io_uring instances, each of which pins one range
int nr_rings;
int sock;
uint64_t observer; // the process that observes, whose files are mapped

// Addresses come as numbers from who observes.
template <typename T = void> T *pointer(uint64_t address) {
    return reinterpret_cast<T *>(address); // NOLINT(performance-no-int-to-ptr)
}

uint64_t result; // an address
sigjmp_buf fault;
volatile sig_atomic_t touching;

void on_fault(int signal) {
    if (touching) siglongjmp(fault, signal);
    _exit(1);
}

// Locking again also breaks copy-on-write after a fork, of which the kernel would otherwise count faults
// later.
void lock_own_memory() {
    for (int i = 0; i < nr_own; ++i) mlock(pointer(own[i].start), own[i].end - own[i].start);
}

// One byte per `stride`; fill: every byte of a page, random.
void touch(const request &r) {
    const uint64_t stride = r.a ? r.a : PAGE;
    for (uint64_t at = r.address; at < r.address + r.length; at += stride) {
        auto *byte = pointer<volatile unsigned char>(at);
        if (r.code == READ) {
            (void)*byte;
        } else if (r.code == WRITE) {
            *byte = static_cast<unsigned char>((at / PAGE) | 1);
        } else if (r.code == WRITEZ) {
            *byte = 0;
        } else {
            auto *word = pointer<volatile uint64_t>(at / PAGE * PAGE);
            uint64_t x = at * 0x9E3779B97F4A7C15 | 1;
            for (int i = 0; i < 512; ++i) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                word[i] = x;
            }
        }
    }
}

// Registered buffers of io_uring are the one way for a user to hold pages with FOLL_LONGTERM.
int pin(const request &r) {
    if (nr_rings == 256) return errno = ENOSPC, -1;
    char parameters[256] = {};
    const int ring = static_cast<int>(syscall(SYS_io_uring_setup, 1, parameters));
    if (ring < 0) return -1;
    const iovec buffer = {pointer(r.address), r.length};
    if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) < 0) {
        const int error = errno;
        close(ring);
        return errno = error, -1;
    }
    rings[nr_rings++] = ring;
    return 0;
}

int unpin() {
    while (nr_rings) {
        syscall(SYS_io_uring_register, rings[--nr_rings], IORING_UNREGISTER_BUFFERS, nullptr, 0);
        close(rings[nr_rings]);
    }
    return 0;
}

iovec vector[64]; // what the next process_madvise is about
int nr_ranges;

// a: the pid, b: the advice.
int advise_process(const request &r) {
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, r.a, 0));
    const int ranges = nr_ranges;
    nr_ranges = 0;
    if (pidfd < 0) return -1;
    const int64_t done = syscall(SYS_process_madvise, pidfd, vector, ranges, r.b, 0);
    const int error = errno;
    close(pidfd);
    return errno = error, done < 0 ? -1 : 0;
}

int drop_cap_sys_nice() {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    if (syscall(SYS_capget, &header, data) < 0) return -1;
    constexpr uint32_t bit = 1U << CAP_SYS_NICE;
    data[0].effective &= ~bit;
    data[0].permitted &= ~bit;
    data[0].inheritable &= ~bit;
    return static_cast<int>(syscall(SYS_capset, &header, data));
}

constexpr uint64_t WRITTEN = 1; // of an access
uint64_t accesses[4096];
uint64_t to_come; // bytes of the accesses that have not been read

bool read_all(void *into, size_t length) {
    auto *at = static_cast<char *>(into);
    while (length) {
        const ssize_t count = read(sock, at, length);
        if (count <= 0) return false;
        at += count;
        length -= static_cast<size_t>(count);
    }
    return true;
}

// One access after the other, as they come over the socket: the page's address, and whether it is written to.
// length: how many; a: what is written.
void access(const request &r) {
    to_come = r.length * sizeof *accesses;
    while (to_come) {
        const size_t part = to_come < sizeof accesses ? to_come : sizeof accesses;
        if (!read_all(accesses, part)) _exit(1);
        to_come -= part;
        for (size_t i = 0; i < part / sizeof *accesses; ++i) {
            auto *byte = pointer<volatile unsigned char>(accesses[i] & ~WRITTEN);
            if (accesses[i] & WRITTEN) {
                *byte = static_cast<unsigned char>(r.a);
            } else {
                (void)*byte;
            }
        }
    }
}

// Reads what comes after an access that failed.
void skip_accesses() {
    while (to_come) {
        const size_t part = to_come < sizeof accesses ? to_come : sizeof accesses;
        if (!read_all(accesses, part)) _exit(1);
        to_come -= part;
    }
}

constexpr uint64_t FLAGS = 0xffffffff; // of mmap's b; above them one more than the observer's file

int map(const request &r) {
    const uint64_t file = r.b >> 32;
    int fd = -1;
    if (file) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/fd/%d", static_cast<int>(observer), static_cast<int>(file - 1));
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) return -1;
    }
    const int flags = static_cast<int>(r.b & FLAGS) | (file ? 0 : MAP_ANONYMOUS);
    void *address = mmap(pointer(r.address), r.length, static_cast<int>(r.a), flags, fd, 0);
    const int error = errno;
    if (fd >= 0) close(fd);
    result = address == MAP_FAILED ? 0 : reinterpret_cast<uintptr_t>(address);
    return errno = error, address == MAP_FAILED ? -1 : 0;
}

// a: target, b: new length; without a target in place, or where the kernel finds room.
int remap(const request &r) {
    const int fixed = r.a ? MREMAP_FIXED : 0;
    void *address = mremap(pointer(r.address), r.length, r.b, MREMAP_MAYMOVE | fixed, pointer(r.a));
    result = address == MAP_FAILED ? 0 : reinterpret_cast<uintptr_t>(address);
    return address == MAP_FAILED ? -1 : 0;
}

// Past the C library, which has a heap of its own.
int set_brk(uint64_t end) {
    result = static_cast<uint64_t>(syscall(SYS_brk, end));
    return result == end ? 0 : (errno = ENOMEM, -1);
}

int call(const request &r) {
    void *address = pointer(r.address);
    switch (r.code) {
    case MMAP: // a: protection, b: flags and file
        return map(r);
    case MUNMAP:
        return munmap(address, r.length);
    case MPROTECT:
        return mprotect(address, r.length, static_cast<int>(r.a));
    case MREMAP:
        return remap(r);
    case MADVISE:
        return madvise(address, r.length, static_cast<int>(r.a));
    case MLOCK:
        return mlock(address, r.length);
    case MUNLOCK:
        return munlock(address, r.length);
    case PRCTL:
        return prctl(PR_SET_THP_DISABLE, r.a, r.b, 0, 0);
    case PIN:
        return pin(r);
    case UNPIN:
        return unpin();
    case IOVEC:
        if (nr_ranges == 64) return errno = ENOSPC, -1;
        vector[nr_ranges++] = {address, r.length};
        return 0;
    case PROCESS_MADVISE:
        return advise_process(r);
    case CAPDROP:
        return drop_cap_sys_nice();
    case PLACE: // address: the heap's start, length: below which mappings are placed, a: who observes
        observer = r.a;
        errno = live::place_program(r.address, r.length);
        return errno ? -1 : 0;
    case BRK:
        return set_brk(r.address);
    case ACCESS:
        access(r);
        return 0;
    default:
        touch(r);
        return 0;
    }
}

reply execute(const request &r) {
    rusage before, after;
    memset(&after, 0, sizeof after);
    getrusage(RUSAGE_SELF, &before);
    touching = 1;
    result = 0;
    volatile int error = EFAULT;
    if (sigsetjmp(fault, 1) == 0) error = call(r) < 0 ? errno : 0;
    touching = 0;
    getrusage(RUSAGE_SELF, &after);
    skip_accesses();
    return {error, after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt, getpid(), result};
}

// Runs each path once, so that what is done for the first time is done before anything is counted.
void warm_up() {
    lock_own_memory();
    for (const request &r :
         {request{MMAP, SCRATCH, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED},
          request{WRITE, SCRATCH, 2 * PAGE, 0, 0}, request{READ, SCRATCH, PAGE, 0, 0},
          request{FILL, SCRATCH, PAGE, 0, 0}, request{WRITEZ, SCRATCH, PAGE, 0, 0},
          request{MADVISE, SCRATCH, PAGE, MADV_DONTNEED, 0}, request{MPROTECT, SCRATCH, PAGE, PROT_READ, 0},
          request{WRITE, SCRATCH, PAGE, 0, 0}, request{MUNMAP, SCRATCH, 4 * PAGE, 0, 0}}) {
        execute(r);
    }
}

// a: the child's socket.
reply fork_child(const request &r) {
    const pid_t child = fork();
    const int error = child < 0 ? errno : 0;
    if (child == 0) {
        sock = static_cast<int>(r.a);
        for (; nr_rings; close(rings[--nr_rings])) {
        } // the pins are the parent's
        warm_up();
    } else {
        lock_own_memory();
    }
    return {error, 0, 0, child ? child : getpid(), 0};
}

// Keeps khugepaged's list from being empty, since with nothing to scan it counts no full scans; and empties
// all CPUs' batches of pages on their way to an LRU whenever it is told to: MADV_COLLAPSE begins with
// lru_add_drain_all(), and does nothing else to less than 2M.
int guard() {
    constexpr int ADVISE_COLLAPSE = 25;
    constexpr uint64_t LENGTH = 8 << 20, PMD = 2 << 20;
    const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *listed = mmap(nullptr, LENGTH, prot, flags, -1, 0),
         *other = mmap(nullptr, LENGTH, prot, flags, -1, 0);
    if (listed == MAP_FAILED || other == MAP_FAILED) return 1;
    *static_cast<volatile char *>(listed) = *static_cast<volatile char *>(other) = 1;
    madvise(listed, LENGTH, MADV_HUGEPAGE);
    madvise(listed, LENGTH, MADV_NOHUGEPAGE);
    void *edge = pointer((reinterpret_cast<uintptr_t>(other) + PMD - 1) / PMD * PMD);
    for (char error = 0; write(sock, &error, 1) == 1 && read(sock, &error, 1) == 1;) {
        error = madvise(edge, PAGE, ADVISE_COLLAPSE) < 0 ? static_cast<char>(errno) : '\0';
    }
    return 0;
}

// Does what it is told until it is told to end, or nobody is there any more.
int serve() {
    if (live::move_in()) return 1;
    nr_own = live::own_ranges(own, 256);
    request r = {};
    while (read(sock, &r, sizeof r) == sizeof r && r.code != EXIT) {
        reply answer = {0, 0, 0, getpid(), 0};
        if (r.code == START) {
            warm_up();
        } else {
            answer = r.code == FORK ? fork_child(r) : execute(r);
        }
        if (write(sock, &answer, sizeof answer) != sizeof answer) break;
    }
    return unpin(); // else the kernel lets go of the pages some time after the process
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    live::without_randomization(argv);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0); // inherited from the process that observes
    signal(SIGINT, SIG_IGN);               // who observes ends this process
    signal(SIGCHLD, SIG_IGN);
    sock = static_cast<int>(strtol(argv[2], nullptr, 10));
    if (strcmp(argv[1], "guard") == 0) return guard();
    struct sigaction action = {};
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    live::on_own_stack(serve);
}

// What system calls do to the pages of the recorded process.
#include "lackey.hpp"
#include <sys/syscall.h>

namespace thp::recording {

namespace {

enum : u64 {
    PROT_READ = 1,
    PROT_WRITE = 2,
    MAP_SHARED = 1,
    MAP_ANONYMOUS = 0x20,
    MAP_HUGETLB = 0x40000,
    MAP_POPULATE = 0x8000
};
enum : u64 { MREMAP_DONTUNMAP = 4 };
enum : u64 { MADV_DONTNEED = 4, MADV_FREE = 8, MADV_POPULATE_READ = 22, MADV_POPULATE_WRITE = 23 };

constexpr u64 page_of(u64 address) { return address >> PAGE_SHIFT; }
constexpr u64 page_after(u64 address) { return (address + PAGE_MASK) >> PAGE_SHIFT; }

} // namespace

void Lackey::anonymous(u64 start, u64 end, bool written) {
    states_.set(page_of(start), page_after(end), written ? PAGE_WRITTEN : PAGE_MAPPED);
}

void Lackey::populate(u64 address, u64 length, bool write) {
    const u8 goal = write ? PAGE_WRITTEN : PAGE_READ;
    states_.pieces(page_of(address), page_after(address + length), false, [&](u8 *state, u64 first, u64 n) {
        for (u64 i = 0; i < n; i++)
            if (state[i] != PAGE_OTHER && state[i] < goal) {
                first_touch(first + i, state[i], write);
                if (sampler_.active()) sampler_.access(first + i, write, instructions_, true);
            }
    });
}

// The kernel copied data to the program's memory, which lackey does not show.
void Lackey::written_by_kernel(u64 address, u64 length) {
    if (length > 0 && length < 1ULL << ADDRESS_BITS) populate(address, length, true);
}

void Lackey::map(u64 address, u64 length, u64 protection, u64 flags) {
    const bool anonymous = (flags & MAP_ANONYMOUS) && !(flags & (MAP_SHARED | MAP_HUGETLB));
    states_.set(page_of(address), page_after(address + length), anonymous ? PAGE_MAPPED : PAGE_OTHER);
    if (anonymous && (flags & MAP_POPULATE)) populate(address, length, protection & PROT_WRITE);
}

// brk returns the break that is in force: a result below the one asked for is a refusal.
void Lackey::brk(const syscall_line &call) {
    const u64 address = call.args[0], now = call.result;
    if (!brk_start_) brk_start_ = brk_ = now;
    if (address > now) brk_refused_++;
    if (now > brk_)
        states_.set(page_after(brk_), page_after(now), PAGE_MAPPED);
    else
        states_.set(page_after(now), page_after(brk_), PAGE_OTHER);
    brk_ = now;
}

void Lackey::memory_call(const syscall_line &call) {
    const auto &a = call.args;
    sampler_.cut();
    calls_.push_back({instructions_, call.result, a, call.number, -1});
    switch (call.number) {
    case SYS_mmap:
        if (const auto file = files_.find(a[4] & 0xffffffff); !(a[3] & MAP_ANONYMOUS) && file != files_.end())
            calls_.back().name = file->second;
        map(call.result, a[1], a[2], a[3]);
        break;
    case SYS_mprotect:
        if (!(a[2] & PROT_READ)) states_.unused(page_of(a[0]), page_after(a[0] + a[1]));
        break;
    case SYS_munmap:
        states_.set(page_of(a[0]), page_after(a[0] + a[1]), PAGE_OTHER);
        break;
    case SYS_mremap: {
        const u64 from = page_of(a[0]), to = page_of(call.result);
        const u64 old_pages = page_after(a[1]), new_pages = page_after(a[2]);
        std::vector<u8> states(new_pages, old_pages && states_.get(from) ? PAGE_MAPPED : PAGE_OTHER);
        for (u64 i = 0; i < std::min(old_pages, new_pages); i++) states[i] = states_.get(from + i);
        if (a[3] & MREMAP_DONTUNMAP)
            states_.zap(from, from + old_pages);
        else
            states_.set(from, from + old_pages, PAGE_OTHER);
        states_.pieces(to, to + new_pages, true, [&](u8 *state, u64 first, u64 n) {
            std::copy_n(states.begin() + static_cast<std::ptrdiff_t>(first - to), n, state);
        });
        break;
    }
    case SYS_brk:
        brk(call);
        break;
    case SYS_madvise:
        if (a[2] == MADV_DONTNEED || a[2] == MADV_FREE)
            states_.zap(page_of(a[0]), page_after(a[0] + a[1]));
        else if (a[2] == MADV_POPULATE_READ || a[2] == MADV_POPULATE_WRITE)
            populate(a[0], a[1], a[2] == MADV_POPULATE_WRITE);
        break;
    default:
        break;
    }
}

void Lackey::system_call(const syscall_line &line) {
    if (!pid_) pid_ = line.pid;
    if (line.pid != pid_ && line.pid) return; // a child after fork
    syscall_line call = line;
    if (call.resumed) {
        const auto first = pending_.find(call.thread);
        if (first == pending_.end()) return;
        call = first->second;
        call.finished = line.finished;
        call.success = line.success;
        call.result = line.result;
    }
    if (call.number == SYS_exit_group || call.number == SYS_exit)
        exited_ = true; // exit ends a thread; the last line of a log is one of both
    if (call.number == SYS_execve) execve_ = !call.finished;
    if (!call.finished) {
        pending_[call.thread] = call;
        return;
    }
    pending_.erase(call.thread);
    if (!call.success) return;
    switch (call.number) {
    case SYS_open:
    case SYS_openat:
        files_[call.result] = static_cast<i32>(names_.size());
        names_.push_back(call.path);
        break;
    case SYS_close:
        files_.erase(call.args[0]);
        break;
    case SYS_read:
    case SYS_pread64:
        written_by_kernel(call.args[1], call.result);
        break;
    case SYS_getrandom:
        written_by_kernel(call.args[0], call.result);
        break;
    case SYS_clone:
    case SYS_fork:
    case SYS_vfork:
        forks_++;
        break;
    case SYS_mmap:
    case SYS_mprotect:
    case SYS_munmap:
    case SYS_brk:
    case SYS_mremap:
    case SYS_madvise:
    case SYS_mlock:
    case SYS_mlock2:
    case SYS_munlock:
        memory_call(call);
        break;
    default:
        break;
    }
}

} // namespace thp::recording

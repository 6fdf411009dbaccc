// Reads the log of `valgrind --tool=lackey --trace-mem=yes --trace-syscalls=yes` as a stream.
#pragma once
#include "sampler.hpp"
#include "syscall_line.hpp"
#include "tlb_model.hpp"
#include <map>
#include <span>

namespace thp::recording {

// A page's first touch since it was mapped or zapped, or the first write after reads.
struct touch_record {
    u64 instruction, page; // with WRITE_BIT
};
constexpr u64 WRITE_BIT = 1ULL << 63;
static_assert(sizeof(touch_record) == 16);

// A system call on memory that succeeded. `name` counts the file of an mmap in names(), -1 if there is none.
struct call_record {
    u64 instruction, result;
    std::array<u64, 6> args;
    u32 number;
    i32 name;
};
static_assert(sizeof(call_record) == 72);

// What the model TLB had counted when a window began.
struct window_record {
    double accesses, first_misses, walks;
};

class Lackey {
    PageStates states_;
    Sampler sampler_;
    TlbModel tlb_;
    u64 instructions_ = 0, anonymous_ = 0, other_ = 0, lines_ = 0, bytes_ = 0, strange_ = 0;
    u64 brk_start_ = 0, brk_ = 0, brk_refused_ = 0, forks_ = 0;
    u32 pid_ = 0;
    bool exited_ = false, execve_ = false;
    std::vector<touch_record> touches_;
    std::vector<call_record> calls_;
    std::vector<window_record> windows_;
    std::vector<std::string> names_;
    std::map<u64, i32> files_;            // open file descriptors, as indices of names_
    std::map<u32, syscall_line> pending_; // calls that wait for their result, by thread
    std::vector<char> buffer_;
    std::size_t kept_ = 0; // bytes of an unfinished line at the front of buffer_
    std::string error_;

    const char *parse(const char *p, const char *end);
    bool data_line(const char *p, const char *end);
    void other_line(std::string_view line);
    void system_call(const syscall_line &call);
    void memory_call(const syscall_line &call);
    void map(u64 address, u64 length, u64 protection, u64 flags);
    void brk(const syscall_line &call);
    void written_by_kernel(u64 address, u64 length);
    void populate(u64 address, u64 length, bool write);
    void first_touch(u64 page, u8 &state, bool write);
    void begin_window();
    void access(u64 address, u64 size, bool write);
    void access_page(u64 page, bool write);
    void fail(std::string_view line, const char *reason);

  public:
    Lackey(u64 window, u64 budget, u32 depth) : sampler_(window, budget, depth) {}
    Lackey(const Lackey &) = delete;

    // Declares pages that are anonymous from the start: the stack and the .bss.
    void anonymous(u64 start, u64 end, bool written);

    // Parses text. False when the log turned out malformed: see error().
    bool feed(std::string_view text);

    // Reads `fd` until `max_bytes` came, `milliseconds` passed or it ended. Returns the bytes read; 0 is the
    // end or no news; -1 an error (see error()).
    std::int64_t feed(int fd, u64 max_bytes, u32 milliseconds);

    // Checks at the end of the log that it is whole; false otherwise.
    bool finish();

    // Up to `count` pages that are written at this moment, chosen by `seed`.
    std::vector<u64> written_pages(u32 count, u64 seed) const;

    const Sampler &sampler() const { return sampler_; }
    const TlbModel &tlb() const { return tlb_; }
    const std::vector<touch_record> &touches() const { return touches_; }
    const std::vector<call_record> &calls() const { return calls_; }
    const std::vector<window_record> &windows() const { return windows_; }
    const std::vector<std::string> &names() const { return names_; }
    const std::string &error() const { return error_; }
    u64 instructions() const { return instructions_; }
    u64 accesses_anonymous() const { return anonymous_; }
    u64 accesses_other() const { return other_; }
    u64 lines() const { return lines_; }
    u64 bytes() const { return bytes_; }
    u64 brk_start() const { return brk_start_; }
    u64 brk_refused() const { return brk_refused_; }
    u64 forks() const { return forks_; }
    bool exited() const { return exited_; }
};

} // namespace thp::recording

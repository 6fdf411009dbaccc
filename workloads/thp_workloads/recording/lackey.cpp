// The lines of the log, and the accesses in them. System calls are in memory_calls.cpp.
#include "lackey.hpp"
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <poll.h>
#include <thread>
#include <unistd.h>

namespace thp::recording {

namespace {

constexpr std::size_t BLOCK = 1 << 20;
constexpr u64 MAX_STRANGE_LINES = 1000;

constexpr std::array<u8, 256> hex_digits() {
    std::array<u8, 256> t{};
    t.fill(255);
    for (u8 i = 0; i < 10; i++) t['0' + i] = i;
    for (u8 i = 0; i < 6; i++) t['a' + i] = t['A' + i] = static_cast<u8>(10 + i);
    return t;
}
constexpr std::array<u8, 256> HEX = hex_digits();

} // namespace

void Lackey::fail(std::string_view line, const char *reason) {
    if (!error_.empty()) return;
    error_ = "line " + std::to_string(lines_) + " of the log: " + reason + ": ";
    error_ += line.substr(0, 80);
}

void Lackey::first_touch(u64 page, u8 &state, bool write) {
    state = write ? PAGE_WRITTEN : PAGE_READ;
    touches_.push_back({instructions_, page | (write ? WRITE_BIT : 0)});
}

void Lackey::access_page(u64 page, bool write) {
    const u8 state = states_.get(page);
    if (state == PAGE_OTHER) {
        other_++;
        return;
    }
    anonymous_++;
    states_.used(page, anonymous_);
    tlb_.access(page, 1, 1);
    const bool faults = state < (write ? PAGE_WRITTEN : PAGE_READ);
    if (faults) first_touch(page, states_.at(page), write);
    if (sampler_.active()) sampler_.access(page, write, instructions_, faults);
}

void Lackey::begin_window() {
    windows_.push_back({tlb_.accesses, tlb_.first_misses, tlb_.walks});
    if (sampler_.cross(instructions_)) sampler_.warm(states_.recent(Sampler::WARM_PAGES), instructions_);
}

inline void Lackey::access(u64 address, u64 size, bool write) {
    const u64 first = address >> PAGE_SHIFT, last = (address + size - 1) >> PAGE_SHIFT;
    access_page(first, write);
    if (last != first) access_page(last, write);
}

// " L 1ffeffff08,8": load, store or modify, address, size. A modify writes: its load already asks for a
// writable page.
bool Lackey::data_line(const char *p, const char *end) {
    if (end - p < 6 || p[2] != ' ') return false;
    const char kind = p[1];
    u64 address = 0, size = 0;
    const char *s = p + 3;
    for (u8 digit; s < end && (digit = HEX[static_cast<u8>(*s)]) != 255; s++) address = address << 4 | digit;
    if (s == p + 3 || s == end || *s != ',') return false;
    for (s++; s < end && *s >= '0' && *s <= '9'; s++) size = size * 10 + static_cast<u64>(*s - '0');
    if (s != end || size == 0 || size > 1 << PAGE_SHIFT) return false;
    access(address, size, kind != 'L');
    return true;
}

void Lackey::other_line(std::string_view line) {
    if (line.starts_with("SYSCALL[")) {
        syscall_line call;
        if (parse_syscall_line(line, call))
            system_call(call);
        else
            fail(line, "malformed system call");
        return;
    }
    // The result of a call whose line valgrind interrupted with a message of its own.
    syscall_line rest;
    if (!pending_.empty() && parse_result(line, rest)) {
        syscall_line call = pending_.begin()->second;
        call.finished = true;
        call.success = rest.success;
        call.result = rest.result;
        system_call(call);
        return;
    }
    if (line.starts_with("==") || line.starts_with("--") || line.starts_with("**") ||
        line.starts_with(" -->"))
        return;
    if (++strange_ > MAX_STRANGE_LINES || instructions_ == 0) fail(line, "not a line of lackey");
}

// Parses the whole lines of [p, end) and returns the start of the unfinished one.
const char *Lackey::parse(const char *p, const char *end) {
    while (p < end && error_.empty()) {
        // "I  0401ab70,3": most lines are of this length.
        if (end - p >= 14 && p[0] == 'I' && p[11] == ',' && p[13] == '\n') {
            p += 14;
            lines_++;
            if (++instructions_ >= sampler_.next()) begin_window();
            continue;
        }
        const auto *newline =
            static_cast<const char *>(std::memchr(p, '\n', static_cast<std::size_t>(end - p)));
        if (!newline) break;
        lines_++;
        const std::string_view line(p, static_cast<std::size_t>(newline - p));
        if (line.starts_with("I  ")) {
            if (line.size() < 6 || HEX[static_cast<u8>(line[3])] == 255) fail(line, "malformed instruction");
            if (++instructions_ >= sampler_.next()) begin_window();
        } else if (line.size() > 1 && p[0] == ' ' && (p[1] == 'L' || p[1] == 'S' || p[1] == 'M')) {
            if (!data_line(p, newline)) fail(line, "malformed access");
        } else if (!line.empty()) {
            other_line(line);
        }
        p = newline + 1;
    }
    return p;
}

bool Lackey::feed(std::string_view text) {
    bytes_ += text.size();
    while (!text.empty() && error_.empty()) {
        const std::size_t n = std::min(text.size(), BLOCK);
        if (buffer_.size() < kept_ + n) buffer_.resize(kept_ + n);
        std::memcpy(buffer_.data() + kept_, text.data(), n);
        text.remove_prefix(n);
        const char *end = buffer_.data() + kept_ + n, *rest = parse(buffer_.data(), end);
        kept_ = static_cast<std::size_t>(end - rest);
        std::memmove(buffer_.data(), rest, kept_);
        if (kept_ >= BLOCK) fail({buffer_.data(), 80}, "no end of line");
    }
    return error_.empty();
}

std::int64_t Lackey::feed(int fd, u64 max_bytes, u32 milliseconds) {
    using clock = std::chrono::steady_clock;
    const auto deadline = clock::now() + std::chrono::milliseconds(milliseconds);
    u64 total = 0;
    while (total < max_bytes && error_.empty()) {
        const auto remaining =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - clock::now()).count();
        pollfd ready{fd, POLLIN, 0};
        if (remaining <= 0 || poll(&ready, 1, static_cast<int>(remaining)) <= 0) break;
        if (buffer_.size() < kept_ + BLOCK) buffer_.resize(kept_ + BLOCK);
        const ssize_t n = read(fd, buffer_.data() + kept_, BLOCK);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) error_ = std::string("cannot read the log: ") + std::strerror(errno);
        if (n <= 0) break;
        total += static_cast<u64>(n);
        bytes_ += static_cast<u64>(n);
        const char *end = buffer_.data() + kept_ + n, *rest = parse(buffer_.data(), end);
        kept_ = static_cast<std::size_t>(end - rest);
        std::memmove(buffer_.data(), rest, kept_);
        if (kept_ >= BLOCK) fail({buffer_.data(), 80}, "no end of line");
        // valgrind writes a line at a time: let the pipe fill instead of waking up for each.
        if (static_cast<std::size_t>(n) < BLOCK / 4)
            std::this_thread::sleep_for(std::chrono::milliseconds(8));
    }
    return error_.empty() ? static_cast<std::int64_t>(total) : -1;
}

bool Lackey::finish() {
    if (!error_.empty()) return false;
    // An execve that succeeds is the last thing in the log, in the middle of its line.
    syscall_line last;
    if (kept_ > 0 && parse_syscall_line({buffer_.data(), kept_}, last)) system_call(last);
    if (instructions_ == 0)
        error_ = "the log is empty";
    else if (execve_)
        error_ = "the program replaces itself by another one: record that one";
    else if (kept_ > 0)
        error_ = "the log is truncated: it ends inside a line";
    else if (!exited_)
        error_ = "the log is truncated: it ends before the program's exit";
    return error_.empty();
}

std::vector<u64> Lackey::written_pages(u32 count, u64 seed) const {
    std::vector<u64> pages;
    u64 x = seed * 2 + 1;
    for (u32 tries = 0; tries < count * 4 && pages.size() < count && !touches_.empty(); tries++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        const u64 page = touches_[(x >> 33) % touches_.size()].page & ~WRITE_BIT;
        if (states_.get(page) == PAGE_WRITTEN) pages.push_back(page);
    }
    return pages;
}

} // namespace thp::recording

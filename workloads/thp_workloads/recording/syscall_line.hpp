// One line of valgrind's --trace-syscalls=yes.
#pragma once
#include "page_states.hpp"
#include <string>
#include <string_view>

namespace thp::recording {

struct syscall_line {
    u32 pid = 0, thread = 0, number = 0;
    u32 nargs = 0;
    std::array<u64, 6> args{};
    std::string path;      // the first argument that valgrind prints with its string
    bool resumed = false;  // the second half of a call that could block
    bool finished = false; // the line holds the result
    bool success = false;
    u64 result = 0;
};

// Reads "SYSCALL[pid,thread](number) name ( args ) --> Success(0x..)" and its halves; false if malformed.
bool parse_syscall_line(std::string_view line, syscall_line &out);

// Reads "--> ... Success(0x..)" or "Failure(0x..)" anywhere in a line; false if there is none.
bool parse_result(std::string_view line, syscall_line &out);

} // namespace thp::recording

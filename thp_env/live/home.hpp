// Moves the process that runs a program out of the program's way: into the lowest 4 MiB, on a stack of its
// own, so that the rest of the address space is as a program finds it that has nothing mapped yet.
#pragma once
#include <cstdint>

namespace live {

struct range {
    uintptr_t start, end;
};

// Starts the process again without address space layout randomization, if need be.
void without_randomization(char **argv);

// Calls `then` on a stack in the process's own data; never returns.
[[noreturn]] void on_own_stack(int (*then)());

// Unmaps the stack that the kernel gave, the vDSO and its data. Only from `on_own_stack`. errno or 0.
int move_in();

// Writes down what is mapped, which is all the process's own; the number of ranges.
int own_ranges(range *out, int most);

// Lets the heap begin at an address, and what has no place of its own lie below another. errno or 0.
int place_program(uint64_t brk_start, uint64_t mmap_base);

} // namespace live

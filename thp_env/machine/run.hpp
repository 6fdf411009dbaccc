// The interpreter of trace programs.
#pragma once
#include "state.hpp"

namespace thp {

// A trace program: read-only, shared by the machines that run it.
struct program_view {
    const op_record *ops = nullptr;
    const access_record *accesses = nullptr;
    const bin_record *bins = nullptr;
    const u32 *alias_tables = nullptr; // (first bin, bins) of each
    u64 nr_ops = 0, seed = 0;
};

enum run_status : u32 { RUN_DONE, RUN_WINDOW, RUN_OOM, RUN_ERROR, RUN_NEED_ORDER, RUN_OVERFLOW };

// When run() pauses, besides the end of the program. A window ends at the first that comes true.
struct run_budget {
    u64 until = ~0ULL;    // ps of the machine's clock
    u64 choices = ~0ULL;  // faults that had a choice
    u64 ops = ~0ULL;      // whole operations
    u64 accesses = ~0ULL; // simulated accesses; run() counts them down
    bool new_vma = false; // after an operation that made a new anonymous VMA of 64K or more
    bool go_on = false;   // a failed system call is recorded in cursor.error instead of ending the run
    bool fast = true;     // usual accesses take the fast path; else each one goes through mmu::access()
};

// Creates the first process. brk_start and mmap_base: 0 for the defaults.
bool boot(machine &m, u64 brk_start, u64 mmap_base);

// Steps of an operation: its simulated accesses, khugepaged's rounds, 1 for another call.
u64 steps_of(const op_record &op);

// Why a machine that returned RUN_OVERFLOW cannot go on; null where it can.
const char *overflow_of(const machine &m);

// Where a machine holds a setting; the group counts for swappiness only.
u32 *setting(machine &m, u32 index, u32 memcg = 0);
// Writes a setting.
void apply_setting(machine &m, u32 index, u32 value, u32 memcg = 0);

// Runs on from where the machine stands. Cutting a run anywhere gives the same state in the end.
// It may stop early where the machine's host wants it to (RUN_WINDOW).
// RUN_NEED_ORDER: the question in the header waits for thp_resolve().
run_status run(machine &m, const program_view &program, run_budget &budget);

} // namespace thp

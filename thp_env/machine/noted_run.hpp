// A run to the program's end that notes what it has counted on its way: what shadow runs are made of.
#pragma once
#include "batch.hpp"

namespace thp {

// Points of a run. The first is where it began, the last where it ended.
struct noted_run {
    run_status status = RUN_WINDOW;
    bool broken = false;         // stopped in the middle of an operation
    std::vector<u64> snapshots;  // SNAPSHOT_WIDTH a point
    std::vector<vma_smaps> vmas; // of the VMAs that policies decide about, if they are noted
    std::vector<u32> vmas_at;    // how many of them belong to each point
    u32 points() const { return static_cast<u32>(snapshots.size() / SNAPSHOT_WIDTH); }
};

// How densely a run is noted.
struct noting {
    u32 most; // points besides the first and the last, at most
    u64 ps;   // between two points, at first: twice as far whenever there are too many
    bool vmas;
};

// Runs a machine to the end of its program, or of its memory.
void run_noting(machine &m, const program_view &program, const noting &how, noted_run &out,
                const std::function<bool()> &stopped);

// The same for machines on the threads of a pool; false when interrupted() ended it.
bool run_noting(thread_pool &pool, const std::vector<std::pair<machine *, const program_view *>> &machines,
                const noting &how, std::vector<noted_run> &out, const std::function<bool()> &interrupted);

} // namespace thp

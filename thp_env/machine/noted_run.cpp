#include "noted_run.hpp"
#include "kernel/mmap.hpp"

namespace thp {

namespace {

void note(machine &m, bool vmas, noted_run &out) {
    out.snapshots.resize(out.snapshots.size() + SNAPSHOT_WIDTH);
    read_snapshot(m, out.snapshots.data() + out.snapshots.size() - SNAPSHOT_WIDTH);
    if (!vmas) return;
    const size_t before = out.vmas.size();
    for (u32 i = 0; i < m.h->nr_vmas; ++i) {
        const u32 v = m.vma_order[i];
        if (may_be_asked(m.vmas[v])) out.vmas.push_back(smaps(m, v, false, 1));
    }
    out.vmas_at.push_back(static_cast<u32>(out.vmas.size() - before));
}

// Drops every other point but for the first and the last.
void thin(noted_run &out) {
    const u32 n = out.points();
    u32 points = 0;
    size_t from = 0, vmas = 0;
    for (u32 i = 0; i < n; ++i) {
        const u32 count = out.vmas_at.empty() ? 0 : out.vmas_at[i];
        if (i % 2 == 0 || i + 1 == n) {
            std::copy_n(out.snapshots.begin() + i64{i} * SNAPSHOT_WIDTH, SNAPSHOT_WIDTH,
                        out.snapshots.begin() + i64{points} * SNAPSHOT_WIDTH);
            std::copy_n(out.vmas.begin() + static_cast<i64>(from), count,
                        out.vmas.begin() + static_cast<i64>(vmas));
            if (!out.vmas_at.empty()) out.vmas_at[points] = count;
            vmas += count;
            ++points;
        }
        from += count;
    }
    out.snapshots.resize(size_t{points} * SNAPSHOT_WIDTH);
    out.vmas.resize(vmas);
    if (!out.vmas_at.empty()) out.vmas_at.resize(points);
}

} // namespace

void run_noting(machine &m, const program_view &program, const noting &how, noted_run &out,
                const std::function<bool()> &stopped) {
    const watching watched(m.host, stopped);
    u64 ps = how.ps;
    for (;;) {
        note(m, how.vmas, out);
        if (out.status != RUN_WINDOW || m.host.ask()) return;
        if (out.points() > how.most) {
            thin(out);
            ps = saturating_add(ps, ps);
        }
        run_budget budget;
        budget.until = saturating_add(m.h->clock, ps);
        budget.go_on = true;
        out.status = run_interruptible(m, program, budget, stopped);
    }
}

bool run_noting(thread_pool &pool, const std::vector<std::pair<machine *, const program_view *>> &machines,
                const noting &how, std::vector<noted_run> &out, const std::function<bool()> &interrupted) {
    out.assign(machines.size(), {});
    return share_out(
        pool, static_cast<u32>(machines.size()),
        [&](u32 i, const std::function<bool()> &stopped) {
            run_noting(*machines[i].first, *machines[i].second, how, out[i], stopped);
        },
        [&](u32 i) { out[i].broken = true; }, interrupted);
}

} // namespace thp

#include "psi.hpp"
#include <algorithm>

namespace thp {

namespace {

constexpr u64 PSI_PERIOD = 2'001'000'000'000; // psi_period: 2 * HZ + 1 ticks of 1 ms, in ps
constexpr u32 FSHIFT = 11;                    // include/linux/sched/loadavg.h
constexpr u64 FIXED_1 = 1ULL << FSHIFT;
constexpr u64 EXP[NR_PSI_AVGS] = {1677, 1981, 2034}; // 1/exp(2s/10s), 1/exp(2s/60s), 1/exp(2s/300s)

u64 calc_load(u64 load, u64 exp, u64 active) {
    u64 next = load * exp + active * (FIXED_1 - exp);
    if (active >= load) next += FIXED_1 - 1;
    return next / FIXED_1;
}

bool idle(const psi_group &g) {
    const u64 *avg = &g.avg[0][0];
    return g.total[PSI_SOME] == g.avg_total[PSI_SOME] && g.total[PSI_FULL] == g.avg_total[PSI_FULL] &&
           std::all_of(avg, avg + NR_PSI_STATES * NR_PSI_AVGS, [](u64 value) { return value == 0; });
}

// update_averages, at the moment when the work is due.
void update_averages(psi_group &g) {
    const u64 now = g.avg_next_update, period = now - g.avg_last_update;
    g.avg_next_update = now + PSI_PERIOD;
    g.avg_last_update = now;
    for (u32 s = 0; s < NR_PSI_STATES; ++s) {
        const u64 sample =
            std::min(g.total[s] - g.avg_total[s], period); // late ones count in the next period
        g.avg_total[s] += sample;
        const u64 pct = sample / 1000 * 100 / (period / 1000) * FIXED_1; // Linux counts ns
        for (u32 w = 0; w < NR_PSI_AVGS; ++w) g.avg[s][w] = calc_load(g.avg[s][w], EXP[w], pct);
    }
}

void advance(psi_group &g, u64 now) {
    while (now >= g.avg_next_update) {
        if (idle(g)) {
            g.avg_last_update = g.avg_next_update + (now - g.avg_next_update) / PSI_PERIOD * PSI_PERIOD;
            g.avg_next_update = g.avg_last_update + PSI_PERIOD;
            return;
        }
        update_averages(g);
    }
}

void account(psi_group &g, u64 start, u64 end, bool full) {
    advance(g, start);
    for (u64 at = start; at < end;) {
        const u64 next = std::min(end, g.avg_next_update);
        g.total[PSI_SOME] += next - at;
        if (full) g.total[PSI_FULL] += next - at;
        at = next;
        advance(g, at);
    }
}

} // namespace

void psi_init(const machine &m, psi_group &group) {
    group = psi_group{};
    group.avg_last_update = m.h->clock;
    group.avg_next_update = m.h->clock + PSI_PERIOD;
}

void psi_stalled(machine &m, u64 start, u64 end) {
    if (m.h->in_memstall || start == end) return;
    const u32 memcg = m.h->task_memcg;
    account(m.h->psi_system, start, end, memcg != NIL);
    if (memcg != NIL) account(m.memcgs[memcg].psi, start, end, true);
}

void psi_update(const machine &m, psi_group &group) { advance(group, m.h->clock); }

} // namespace thp

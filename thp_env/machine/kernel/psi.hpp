// kernel/sched/psi.c: pressure stall information, for memory. A process stalls while it reclaims, compacts or
// reads back from swap what it would still have if there were more memory.
//
// One CPU runs one process of the program at a time, and the others sleep: where it stalls nobody in its
// group gets anything done, so that "some" is "full" there. Daemons stall for the system alone, where the
// process that waits for the CPU could run: "some".
#pragma once
#include "../state.hpp"

namespace thp {

void psi_init(const machine &m, psi_group &group);
// The process that runs, or a daemon, has stalled (R51) between two points of time.
void psi_stalled(machine &m, u64 start, u64 end);
// Averages are up to date after it (psi_show).
void psi_update(const machine &m, psi_group &group);

// psi_memstall_enter and psi_memstall_leave; inside another one it is nothing of its own.
struct psi_memstall {
    machine &m;
    u64 begun;
    bool outer;
    explicit psi_memstall(machine &machine) : m(machine), begun(m.h->clock), outer(!m.h->in_memstall) {
        m.h->in_memstall = 1;
    }
    ~psi_memstall() {
        if (!outer) return;
        m.h->in_memstall = 0;
        psi_stalled(m, begun, m.h->clock);
    }
    psi_memstall(const psi_memstall &) = delete;
    psi_memstall &operator=(const psi_memstall &) = delete;
};

// While it lives, a daemon runs instead of a process.
struct daemon_runs {
    machine &m;
    u32 before;
    explicit daemon_runs(machine &machine) : m(machine), before(m.h->task_memcg) { m.h->task_memcg = NIL; }
    ~daemon_runs() { m.h->task_memcg = before; }
    daemon_runs(const daemon_runs &) = delete;
    daemon_runs &operator=(const daemon_runs &) = delete;
};

} // namespace thp

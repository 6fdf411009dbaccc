#include "batch.hpp"
#include "kernel/huge_memory.hpp"
#include "kernel/huge_memory_bpf.hpp"
#include "kernel/khugepaged.hpp"
#include "kernel/madvise.hpp"
#include "kernel/mmap.hpp"
#include <algorithm>
#include <cerrno>
#include <chrono>

namespace thp {

namespace {

constexpr u64 SLICE = 1U << 20; // accesses between two looks at the host: some 10 ms

// Looks for a while whether something is so. A thread that slept would take as long to wake as a window of
// some thousand accesses takes to run.
template <typename Ready> void look(Ready ready) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (!ready() && std::chrono::steady_clock::now() < end) {
    } // a yield on a busy host lasts for milliseconds
}

void step(batch_item &item, const window &w, const std::function<bool()> &stopped) {
    machine &m = *item.m;
    const watching watched(m.host, stopped);
    if (item.decisions) {
        for (u32 i = 0; i < std::max(1U, w.slots); ++i) decide(m, item.decisions[i]);
    }
    u32 next = NIL;
    bool progress = false;
    do {
        const u64 op = m.h->at.op, at = m.h->at.step, clock = m.h->clock;
        run_budget budget;
        budget.until = saturating_add(m.h->clock, w.ps);
        budget.choices = w.choices;
        budget.accesses = w.accesses;
        budget.new_vma = w.new_vma;
        budget.go_on = true;
        item.status = run_interruptible(m, *item.program, budget, stopped);
        if (w.question == QUESTION_VMA) next = next_vma(m, w.reasons);
        progress = m.h->at.op != op || m.h->at.step != at || m.h->clock != clock;
    } while (item.status == RUN_WINDOW && w.question == QUESTION_VMA && next == NIL && !w.idle && progress &&
             !m.host.ask());
    std::fill(item.rows, item.rows + w.slots + 1, vma_smaps{});
    if (item.status == RUN_NEED_ORDER) ask_order(m, item.rows, w.slots);
    if (item.status == RUN_WINDOW) {
        if (w.question == QUESTION_VMA && next != NIL) *item.rows = ask(m, next, w.every, w.reasons);
        if (w.question == QUESTION_SLOTS)
            item.others = ask_slots(m, item.slots, w.slots, item.rows, w.every, w.reasons);
    }
    read_snapshot(m, item.snapshot);
}

// A decision is no operation of the program, which could wait for an answer.
int unless_it_asks(machine &m, int error) {
    if (error != -ENEEDORDER) return error;
    m.h->question = {};
    return -EAGAIN;
}

} // namespace

int decide(machine &m, const decision &d) {
    if (d.verb == VERB_NOTHING) return 0;
    if (d.verb == VERB_RESOLVE) return thp_resolve(m, d.value);
    const u32 v = vma_of_id(m, d.vma);
    if (v == NIL) return -ESRCH;
    const vm_area_struct vma = m.vmas[v];
    return decide_range(m, vma.vm_mm, vma.vm_start, vma.vm_end, d.verb, d.value);
}

int decide_range(machine &m, u32 mm, u64 start, u64 end, u32 verb, u32 value) {
    switch (verb) {
    case VERB_ORDERS:
        if (value & ~THP_ORDERS_ALL) return -EINVAL;
        return set_vma_orders(m, mm, start, end, value);
    case VERB_SPLIT:
        split_folios_in_range(m, mm, start, end);
        return 0;
    case VERB_ADVISE:
        m.spend(TIME_syscall, m.cost().syscall);
        return unless_it_asks(m, do_madvise(m, mm, start, end - start, value));
    case VERB_COLLAPSE:
        if (value < 2 || value > PMD_ORDER) return -EINVAL;
        m.spend(TIME_syscall, m.cost().syscall);
        return unless_it_asks(m, collapse_range(m, mm, start, end, value));
    case VERB_COLLAPSE_WALKED:
        return collapse_walked(m, mm, start, end, value);
    default:
        return -EINVAL;
    }
}

int collapse_walked(machine &m, u32 mm, u64 start, u64 end, u64 walks) {
    std::vector<u64> blocks;
    for (u32 i = 0; i < m.h->arrays[ARRAY_walked_blocks].used; ++i) {
        walked_block &at = m.walked_blocks[i];
        if (at.mm != mm || at.walks < std::max<u64>(walks, 1) ||
            at.block < (start + PMD_SIZE - 1) >> PMD_SHIFT || at.block >= end >> PMD_SHIFT)
            continue;
        blocks.push_back(at.block);
        at = {}; // one that cannot be collapsed has to be walked as often again
    }
    std::sort(blocks.begin(), blocks.end());
    int error = 0;
    for (const u64 block : blocks) {
        const int result =
            decide_range(m, mm, block << PMD_SHIFT, (block + 1) << PMD_SHIFT, VERB_ADVISE, MADV_COLLAPSE);
        if (result) error = result;
    }
    return error;
}

run_status run_interruptible(machine &m, const program_view &program, run_budget budget,
                             const std::function<bool()> &stopped) {
    const watching watched(m.host, stopped);
    const u64 choices = saturating_add(m.h->vm[VM_fault_with_choice], budget.choices);
    u64 remaining = budget.accesses;
    for (;;) {
        const u64 slice = budget.accesses = std::min(remaining, SLICE);
        budget.choices = choices - m.h->vm[VM_fault_with_choice];
        const u64 first_op = m.h->at.op;
        const run_status status = run(m, program, budget);
        remaining -= slice - budget.accesses;
        if (budget.ops != ~0ULL) budget.ops -= std::min(budget.ops, m.h->at.op - first_op);
        const bool cut = status == RUN_WINDOW && budget.accesses == 0 && remaining > 0 && budget.ops > 0 &&
                         m.h->clock < budget.until && m.h->vm[VM_fault_with_choice] < choices;
        if (!cut || m.host.ask()) return status;
    }
}

thread_pool::thread_pool(u32 threads) {
    for (u32 i = 1; i < threads; ++i) threads_.emplace_back([this] { serve(); });
}

thread_pool::~thread_pool() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    start_.notify_all();
    for (std::thread &thread : threads_) thread.join();
}

void thread_pool::drain(bool caller) {
    for (u32 i = next_.fetch_add(1); i < n_; i = next_.fetch_add(1)) (*work_)(i, caller);
}

void thread_pool::serve() {
    u64 last_round = 0;
    for (;;) {
        look([&] { return round_ != last_round; });
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return stop_ || round_ != last_round; });
        if (stop_) return;
        last_round = round_;
        lock.unlock();
        drain(false);
        lock.lock();
        if (--busy_ == 0) done_.notify_one();
    }
}

void thread_pool::run(u32 n, const std::function<void(u32, bool)> &work, const std::function<bool()> &idle) {
    {
        const std::lock_guard lock(mutex_);
        work_ = &work;
        n_ = n;
        next_ = 0;
        if (n > 1) {
            busy_ = static_cast<u32>(threads_.size());
            ++round_;
        }
    }
    if (n > 1 && !threads_.empty()) start_.notify_all();
    drain(true);
    look([&] { return busy_ == 0; });
    std::unique_lock lock(mutex_);
    while (!done_.wait_for(lock, std::chrono::milliseconds(50), [&] { return busy_ == 0; })) {
        lock.unlock();
        idle();
        lock.lock();
    }
}

bool share_out(thread_pool &pool, u32 n, const std::function<void(u32, const std::function<bool()> &)> &work,
               const std::function<void(u32)> &broken, const std::function<bool()> &interrupted) {
    std::atomic<bool> stop{false};
    const std::function<bool()> by_caller = [&] {
        if (!stop && interrupted()) stop = true;
        return stop.load();
    };
    const std::function<bool()> by_worker = [&] { return stop.load(std::memory_order_relaxed); };
    std::mutex mutex;
    std::exception_ptr error;
    const auto one = [&](u32 i, bool caller) {
        if (stop) return;
        try {
            work(i, caller ? by_caller : by_worker);
        } catch (const stopped_midway &) {
            broken(i);
        } catch (...) { // of a thread of the pool: goes on in the caller
            const std::lock_guard lock(mutex);
            error = std::current_exception();
            broken(i);
        }
    };
    pool.run(n, one, by_caller);
    if (error) std::rethrow_exception(error);
    return !stop;
}

bool advance(thread_pool &pool, batch_item *items, u32 n, const window &w,
             const std::function<bool()> &interrupted) {
    return share_out(
        pool, n, [&](u32 i, const std::function<bool()> &stopped) { step(items[i], w, stopped); },
        [&](u32 i) { items[i].broken = true; }, interrupted);
}

} // namespace thp

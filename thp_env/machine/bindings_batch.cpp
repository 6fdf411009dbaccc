// nanobind: batches of machines.
#include "batch.hpp"
#include "bindings.hpp"
#include "noted_run.hpp"
#include <deque>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <string>
#include <unistd.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace thp {

namespace {

template <typename T> using array_of = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

// Checks the size of an array that machines read from or write to.
template <typename T> T *data_of(const std::optional<array_of<T>> &a, size_t size) {
    if (!a) return nullptr;
    if (a->size() != size) throw nb::value_error("an array has the wrong shape");
    return a->data();
}

using noted = std::tuple<u32, nb::bytes, nb::bytes, nb::bytes>; // of a run

struct busy_flag {
    bool &flag;
    explicit busy_flag(bool &f) : flag(f) { flag = true; }
    ~busy_flag() { flag = false; }
    busy_flag(const busy_flag &) = delete;
    busy_flag &operator=(const busy_flag &) = delete;
};

// Machines that step together on a thread pool. Threads do not survive fork(), so a child makes its own.
struct core_batch {
    std::vector<nb::object> machines; // CoreMachine or None
    u32 threads;
    std::unique_ptr<thread_pool> pool;
    pid_t owner = 0;
    bool running = false;

    core_batch(const nb::list &list, u32 nr_threads) : threads(nr_threads) {
        for (nb::handle h : list) machines.push_back(nb::borrow(h));
    }
    ~core_batch() { leave_to_parent(); }
    core_batch(const core_batch &) = delete;
    core_batch &operator=(const core_batch &) = delete;

    // After fork() the pool's threads are the parent's: joining them here would wait for ever.
    void leave_to_parent() {
        if (owner != getpid()) [[maybe_unused]]
            const thread_pool *parents = pool.release();
    }
    thread_pool &get_pool() {
        if (owner != getpid()) {
            leave_to_parent();
            pool = std::make_unique<thread_pool>(threads);
            owner = getpid();
        }
        return *pool;
    }
    core_machine &at(size_t i) { return nb::cast<core_machine &>(machines.at(i)); }

    void advance(const array_of<const u8> &active, const std::optional<array_of<const u32>> &decisions,
                 const window &w, const std::optional<array_of<u32>> &slots, const array_of<u8> &rows,
                 const array_of<u64> &snapshot, const array_of<u8> &status) {
        const size_t n = machines.size(), per = std::max(1U, w.slots);
        const u32 *decided = data_of(decisions, n * per * 3);
        u32 *ids = data_of(slots, n * w.slots);
        auto *row = reinterpret_cast<vma_smaps *>(rows.data());
        if (active.size() != n || status.size() != n || snapshot.size() != n * SNAPSHOT_WIDTH ||
            rows.size() != n * (w.slots + 1) * sizeof(vma_smaps)) {
            throw nb::value_error("an array has the wrong shape");
        }
        if (w.question == QUESTION_SLOTS && !ids) throw nb::value_error("slots need an array");
        if (running) throw machine_error("the batch is running");
        const busy_flag held(running);
        std::vector<nb::object> alive; // whatever is put in their places meanwhile
        std::deque<in_use> held_machines;
        std::vector<batch_item> items;
        std::vector<size_t> index;
        for (size_t i = 0; i < n; ++i) {
            if (!active.data()[i]) continue;
            core_machine &c = at(i);
            alive.push_back(machines[i]);
            held_machines.emplace_back(c);
            items.push_back({c.m.get(), &c.program,
                             decided ? reinterpret_cast<const decision *>(decided) + i * per : nullptr,
                             ids ? ids + i * w.slots : nullptr, row + i * (w.slots + 1),
                             snapshot.data() + i * SNAPSHOT_WIDTH, 0, RUN_WINDOW});
            index.push_back(i);
        }
        run(items, w, alive);
        for (size_t i = 0; i < items.size(); ++i) {
            if (items[i].status == RUN_OVERFLOW)
                throw machine_error("machine " + std::to_string(index[i]) + ": " + overflow_of(*items[i].m));
            status.data()[index[i]] = static_cast<u8>(items[i].status);
        }
    }

    void run(std::vector<batch_item> &items, const window &w, const std::vector<nb::object> &machines) {
        const auto note = [&] {
            for (size_t i = 0; i < items.size(); ++i) {
                if (items[i].broken) nb::cast<core_machine &>(machines[i]).broken = true;
            }
        };
        bool whole = false;
        try {
            thread_pool &threads_of_batch = get_pool();
            nb::gil_scoped_release nogil;
            whole =
                thp::advance(threads_of_batch, items.data(), static_cast<u32>(items.size()), w, interrupted);
        } catch (...) {
            note();
            throw;
        }
        note();
        if (!whole) throw nb::python_error();
    }

    // Runs other machines to their ends on the threads of this batch: (status, snapshots, VMAs, VMAs at each
    // point).
    std::vector<noted> note(const nb::list &list, const noting &how) {
        if (running) throw machine_error("the batch is running");
        const busy_flag held(running);
        std::deque<in_use> held_machines;
        std::vector<std::pair<machine *, const program_view *>> chosen;
        for (nb::handle h : list) {
            auto &c = nb::cast<core_machine &>(h);
            held_machines.emplace_back(c);
            chosen.emplace_back(c.m.get(), &c.program);
        }
        std::vector<noted_run> runs;
        thread_pool &threads_of_batch = get_pool();
        bool whole = false;
        {
            nb::gil_scoped_release nogil;
            whole = run_noting(threads_of_batch, chosen, how, runs, interrupted);
        }
        for (size_t i = 0; i < runs.size(); ++i) {
            if (runs[i].broken) nb::cast<core_machine &>(list[i]).broken = true;
        }
        if (!whole) throw nb::python_error();
        std::vector<noted> out;
        for (size_t i = 0; i < runs.size(); ++i) {
            const noted_run &r = runs[i];
            if (r.status == RUN_OVERFLOW) throw machine_error(overflow_of(*chosen[i].first));
            out.emplace_back(static_cast<u32>(r.status), as_bytes(r.snapshots.data(), r.snapshots.size()),
                             as_bytes(r.vmas.data(), r.vmas.size()),
                             as_bytes(r.vmas_at.data(), r.vmas_at.size()));
        }
        return out;
    }

    void snapshot(const array_of<u64> &out) {
        if (out.size() != machines.size() * SNAPSHOT_WIDTH)
            throw nb::value_error("an array has the wrong shape");
        for (size_t i = 0; i < machines.size(); ++i) {
            if (machines[i].is_none()) continue;
            const in_use held(at(i));
            read_snapshot(*at(i).m, out.data() + i * SNAPSHOT_WIDTH);
        }
    }
};

} // namespace

void bind_batch(nb::module_ &module) {
    nb::class_<core_batch>(module, "CoreBatch")
        .def(nb::init<const nb::list &, u32>())
        .def("set",
             [](core_batch &b, size_t i, nb::object machine) { b.machines.at(i) = std::move(machine); })
        .def(
            "advance",
            [](core_batch &b, const array_of<const u8> &active,
               const std::optional<array_of<const u32>> &decisions, u64 ps, u64 choices, u64 accesses,
               bool new_vma, u32 question, u32 nr_slots, u32 every, bool idle, u32 reasons,
               const std::optional<array_of<u32>> &slots, const array_of<u8> &rows,
               const array_of<u64> &snapshot, const array_of<u8> &status) {
                b.advance(active, decisions,
                          {ps, choices, accesses, new_vma, question, nr_slots, every, idle, reasons}, slots,
                          rows, snapshot, status);
            },
            "active"_a, "decisions"_a, "ps"_a, "choices"_a, "accesses"_a, "new_vma"_a, "question"_a,
            "nr_slots"_a, "every"_a, "idle"_a, "reasons"_a, "slots"_a, "rows"_a, "snapshot"_a, "status"_a)
        .def(
            "note",
            [](core_batch &b, const nb::list &machines, u32 most, u64 ps, bool vmas) {
                return b.note(machines, {most, ps, vmas});
            },
            "machines"_a, "most"_a, "ps"_a, "vmas"_a)
        .def("snapshot", &core_batch::snapshot);
}

} // namespace thp

// nanobind, and nothing else: the C++ core as the Python module thp_env.machine._core.
#include "batch.hpp"
#include "hardware/tlb.hpp"
#include "kernel/huge_memory.hpp"
#include "kernel/huge_memory_bpf.hpp"
#include "kernel/mmap.hpp"
#include "kernel/page_alloc.hpp"
#include "kernel/task_mmu.hpp"
#include "run.hpp"
#include "validate.hpp"
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

namespace nb = nanobind;
using namespace nb::literals;
using namespace thp;

namespace {

using bytes_array = nb::ndarray<const u8, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A machine with the program it runs. The arrays of the program live as long as the machine.
struct core_machine {
    std::unique_ptr<machine> m;
    program_view program;
    std::vector<nb::object> keep;

    core_machine(std::unique_ptr<machine> state, const program_view &view, std::vector<nb::object> owners)
        : m(std::move(state)), program(view), keep(std::move(owners)) {}
};

template <typename T> const T *records(const bytes_array &a, u64 *n) {
    *n = a.shape(0) / sizeof(T);
    return reinterpret_cast<const T *>(a.data());
}

program_view view_of(const bytes_array &ops, const bytes_array &accesses, const bytes_array &bins,
                     const bytes_array &tables, u64 seed) {
    program_view p;
    u64 unused = 0;
    p.ops = records<op_record>(ops, &p.nr_ops);
    p.accesses = records<access_record>(accesses, &unused);
    p.bins = records<bin_record>(bins, &unused);
    p.tables = records<u32>(tables, &unused);
    p.seed = seed;
    return p;
}

std::vector<nb::object> owners(const bytes_array &ops, const bytes_array &accesses, const bytes_array &bins,
                               const bytes_array &tables) {
    return {nb::cast(ops), nb::cast(accesses), nb::cast(bins), nb::cast(tables)};
}

// A read-only view of the machine's memory that keeps the machine alive.
template <typename T> auto view(nb::handle self, const T *data, std::initializer_list<size_t> shape) {
    return nb::ndarray<nb::numpy, const T>(data, shape, self);
}

template <typename T> nb::bytes as_bytes(const T *data, size_t n) {
    return nb::bytes(reinterpret_cast<const char *>(data), n * sizeof(T));
}

machine_config make_config(const nb::dict &d) {
    machine_config c{};
    c.nr_pages = nb::cast<u64>(d["nr_pages"]);
    c.max_vmas = nb::cast<u32>(d["max_vmas"]);
    c.max_mms = nb::cast<u32>(d["max_mms"]);
    c.max_tables = nb::cast<u32>(d["max_tables"]);
    c.nr_cpus = nb::cast<u32>(d["nr_cpus"]);
    c.shadow_tlb = nb::cast<bool>(d["shadow_tlb"]) ? 1 : 0;
    const auto arrays = nb::cast<std::vector<std::vector<u32>>>(d["tlb_arrays"]);
    const auto pwc = nb::cast<std::vector<std::vector<u32>>>(d["tlb_pwc"]);
    const auto l1 = nb::cast<std::vector<i32>>(d["tlb_l1"]), l2 = nb::cast<std::vector<i32>>(d["tlb_l2"]);
    const auto walk = nb::cast<std::vector<u32>>(d["walk_cycles"]);
    for (tlb_geometry &array : c.tlb.arrays) array = {1, 0};
    for (u32 i = 0; i < NR_TLB_ARRAYS && i < arrays.size(); ++i)
        c.tlb.arrays[i] = {arrays[i].at(0), arrays[i].at(1)};
    for (u32 i = 0; i < NR_PWC; ++i) c.tlb.pwc[i] = {pwc.at(i).at(0), pwc.at(i).at(1)};
    for (u32 i = 0; i < NR_PAGE_SIZES; ++i) {
        c.tlb.l1_of_size[i] = static_cast<u32>(l1.at(i));
        c.tlb.l2_of_size[i] = static_cast<u32>(l2.at(i));
    }
    c.tlb.l2_hit_cycles = nb::cast<u32>(d["l2_hit_cycles"]);
    for (u32 i = 0; i < 4; ++i) c.tlb.walk_cycles[i] = walk.at(i);
    const nb::dict clock = d["clock"];
#define X(name) c.clock.name = nb::cast<u64>(clock[#name]);
    THP_CLOCK(X)
#undef X
    return c;
}

template <size_t N> nb::tuple names(const char *const (&list)[N]) {
    nb::list out;
    for (const char *name : list) out.append(name);
    return nb::tuple(out);
}

u32 vma_by_id(const core_machine &c, u32 id) {
    const u32 v = vma_of_id(*c.m, id);
    if (v == NIL) throw nb::key_error(("no VMA with id " + std::to_string(id)).c_str());
    return v;
}

// Whether a signal handler of Python raised: called without the GIL.
bool interrupted() {
    nb::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

template <typename T> using array_of = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

// Checks the size of an array that machines read from or write to.
template <typename T> T *data_of(const std::optional<array_of<T>> &a, size_t size) {
    if (!a) return nullptr;
    if (a->size() != size) throw nb::value_error("an array has the wrong shape");
    return a->data();
}

// Machines that step together on a thread pool. Threads do not survive fork(), so a child makes its own.
struct core_batch {
    std::vector<nb::object> machines; // CoreMachine or None
    u32 threads;
    std::unique_ptr<thread_pool> pool;
    pid_t owner = 0;

    core_batch(const nb::list &list, u32 nr_threads) : threads(nr_threads) {
        for (nb::handle h : list) machines.push_back(nb::borrow(h));
    }
    thread_pool &get_pool() {
        if (owner != getpid()) {
            static_cast<void>(pool.release()); // the parent's
            pool = std::make_unique<thread_pool>(threads);
            owner = getpid();
        }
        return *pool;
    }
    core_machine &at(size_t i) { return nb::cast<core_machine &>(machines.at(i)); }

    void advance(const array_of<const u8> &active, const std::optional<array_of<const u32>> &decisions,
                 const window &w, const std::optional<array_of<u32>> &slots,
                 const std::optional<array_of<u8>> &rows, const array_of<u8> &status) {
        const size_t n = machines.size(), per = std::max(1U, w.slots);
        const u32 *decided = data_of(decisions, n * per * 3);
        u32 *ids = data_of(slots, n * w.slots);
        auto *row = reinterpret_cast<vma_smaps *>(data_of(rows, n * (w.slots + 1) * sizeof(vma_smaps)));
        if (active.size() != n || status.size() != n) throw nb::value_error("an array has the wrong shape");
        if ((w.question == QUESTION_SLOTS && !ids) || (w.question >= QUESTION_SLOTS && !row))
            throw nb::value_error("slots need arrays");
        std::vector<batch_item> items;
        std::vector<size_t> index;
        for (size_t i = 0; i < n; ++i) {
            if (!active.data()[i]) continue;
            core_machine &c = at(i);
            items.push_back({c.m.get(), &c.program,
                             decided ? reinterpret_cast<const decision *>(decided) + i * per : nullptr,
                             ids ? ids + i * w.slots : nullptr, row ? row + i * (w.slots + 1) : nullptr, 0,
                             RUN_WINDOW});
            index.push_back(i);
        }
        bool whole = false;
        {
            thread_pool &threads_of_batch = get_pool();
            nb::gil_scoped_release nogil;
            whole =
                thp::advance(threads_of_batch, items.data(), static_cast<u32>(items.size()), w, interrupted);
        }
        if (!whole) throw nb::python_error();
        for (size_t i = 0; i < items.size(); ++i) status.data()[index[i]] = static_cast<u8>(items[i].status);
    }

    void facts(const array_of<u64> &out) {
        if (out.size() != machines.size() * NR_FACTS) throw nb::value_error("an array has the wrong shape");
        for (size_t i = 0; i < machines.size(); ++i) {
            if (!machines[i].is_none()) read_facts(*at(i).m, out.data() + i * NR_FACTS);
        }
    }
};

} // namespace

NB_MODULE(_core, module) { // NOLINT(performance-unnecessary-value-param)
    module.doc() = "The simulated machine: a C++ core. Use thp_env.machine.Machine.";

#define X(name) #name,
    static const char *const mthp_names[] = {THP_MTHP_STATS(X)};
    static const char *const vm_names[] = {THP_VM_EVENTS(X)};
    static const char *const time_names[] = {THP_TIMES(X)};
    static const char *const clock_names[] = {THP_CLOCK(X)};
    static const char *const figure_names[] = {THP_FIGURES(X)};
#undef X
#define X(name, fields) #name,
    static const char *const op_names[] = {THP_OPS(X)};
#undef X
#define X(name, fields) fields,
    static const char *const op_fields[] = {THP_OPS(X)};
#undef X
    module.attr("MTHP_STATS") = names(mthp_names);
    module.attr("FIGURES") = names(figure_names);
    module.attr("VM_EVENTS") = names(vm_names);
    module.attr("TIMES") = names(time_names);
    module.attr("CLOCK") = names(clock_names);
    module.attr("OPS") = names(op_names);
    module.attr("OP_FIELDS") = names(op_fields);

    nb::class_<core_machine>(module, "CoreMachine")
        .def_static("create",
                    [](const nb::dict &config, u32 nr_regions, u32 nr_processes, u64 brk_start, u64 mmap_base,
                       const bytes_array &ops, const bytes_array &accesses, const bytes_array &bins,
                       const bytes_array &tables, u64 seed) {
                        const machine_config c = make_config(config);
                        if (const std::string error = check_config(c); !error.empty())
                            throw nb::value_error(error.c_str());
                        auto m = std::make_unique<machine>(c, nr_regions, nr_processes);
                        if (!boot(*m, brk_start, mmap_base))
                            throw nb::value_error("no memory for the first process");
                        return new core_machine(std::move(m), view_of(ops, accesses, bins, tables, seed),
                                                owners(ops, accesses, bins, tables));
                    })
        .def("clone",
             [](const core_machine &c) {
                 return new core_machine(std::unique_ptr<machine>(c.m->clone()), c.program, c.keep);
             })
        .def("copy_from",
             [](core_machine &c, const core_machine &other) {
                 c.m.reset(other.m->clone());
                 c.program = other.program;
                 c.keep = other.keep;
             })
        .def("equals", [](const core_machine &a, const core_machine &b) { return a.m->equals(*b.m); })
        .def("save",
             [](const core_machine &c) {
                 const std::vector<std::byte> data = c.m->save();
                 return as_bytes(data.data(), data.size());
             })
        .def("load",
             [](core_machine &c, const nb::bytes &data) {
                 machine *loaded = nullptr;
                 const std::string error =
                     machine::load(reinterpret_cast<const std::byte *>(data.c_str()), data.size(), &loaded);
                 if (!error.empty()) throw nb::value_error(error.c_str());
                 std::unique_ptr<machine> m(loaded);
                 if (!m->same_layout(*c.m)) throw nb::value_error("it has another configuration or program");
                 c.m = std::move(m);
             })
        .def(
            "run",
            [](core_machine &c, u64 until, u64 choices, u64 ops, u64 accesses, bool new_vma, bool go_on) {
                bool stop = false;
                run_status status = RUN_WINDOW;
                {
                    nb::gil_scoped_release nogil;
                    const run_budget budget{until, choices, ops, accesses, new_vma, go_on};
                    status = run_interruptible(*c.m, c.program, budget, [&] { return stop = interrupted(); });
                }
                if (stop) throw nb::python_error();
                return static_cast<u32>(status);
            },
            "until"_a, "choices"_a, "ops"_a, "accesses"_a, "new_vma"_a, "go_on"_a)
        .def_prop_ro("clock", [](const core_machine &c) { return c.m->h->clock; })
        .def_prop_ro("op", [](const core_machine &c) { return c.m->h->at.op; })
        .def_prop_ro("step", [](const core_machine &c) { return c.m->h->at.step; })
        .def_prop_ro("error", [](const core_machine &c) { return c.m->h->at.error; })
        .def_prop_ro("state_bytes", [](const core_machine &c) { return c.m->used_bytes(); })
        .def_prop_ro("vm",
                     [](nb::handle self) {
                         return view(self, nb::cast<core_machine &>(self).m->h->vm, {size_t{NR_VM_EVENTS}});
                     })
        .def_prop_ro("times",
                     [](nb::handle self) {
                         return view(self, nb::cast<core_machine &>(self).m->h->times, {size_t{NR_TIMES}});
                     })
        .def_prop_ro("mthp",
                     [](nb::handle self) {
                         return view(self, &nb::cast<core_machine &>(self).m->h->mthp[0][0],
                                     {PMD_ORDER + 1, NR_MTHP_STATS});
                     })
        .def_prop_ro("free_area",
                     [](const core_machine &c) {
                         std::vector<u32> out;
                         for (const free_area &a : c.m->h->area) out.push_back(a.nr_free);
                         return out;
                     })
        .def("validate", [](core_machine &c) { return validate(*c.m); })
        .def_prop_ro("nr_free_pages", [](const core_machine &c) { return nr_free_pages(*c.m); })
        .def("process",
             [](const core_machine &c, u32 number) {
                 const machine &m = *c.m;
                 if (number >= m.h->tables[TABLE_processes].used) throw nb::index_error("no such process");
                 const u32 mm = m.processes[number];
                 if (mm == NIL) return nb::object(nb::none());
                 const mm_struct &s = m.mms[mm];
                 return nb::object(nb::make_tuple(mm, s.rss, s.minflt, s.majflt, s.map_count));
             })
        .def("region",
             [](const core_machine &c, u32 number) {
                 if (number >= c.m->h->tables[TABLE_regions].used) throw nb::index_error("no such region");
                 const region &r = c.m->regions[number];
                 return nb::make_tuple(r.start, r.length, r.mapped != 0);
             })
        .def("vmas",
             [](core_machine &c) {
                 nb::list out;
                 for (u32 i = 0; i < c.m->h->nr_vmas; ++i) {
                     const vm_area_struct &v = c.m->vmas[c.m->vma_order[i]];
                     u64 faults = 0;
                     for (const u64 n : v.faults) faults += n;
                     out.append(nb::make_tuple(v.id, v.vm_mm, v.vm_start, v.vm_end, v.vm_flags, v.orders,
                                               v.born, faults));
                 }
                 return out;
             })
        .def("smaps",
             [](core_machine &c, u32 id, bool clear_refs) {
                 const vma_smaps s = smaps(*c.m, vma_by_id(c, id), clear_refs);
                 return as_bytes(&s, 1);
             })
        .def("pagemap",
             [](core_machine &c, u32 mm, u64 start, u64 pages) {
                 if (mm >= c.m->h->tables[TABLE_mms].used || !c.m->mms[mm].in_use)
                     throw nb::index_error("no such mm");
                 if (pages > (1ULL << 28)) throw nb::value_error("too many pages at once");
                 std::vector<page_layout> out(pages);
                 pagemap(*c.m, mm, start, pages, out.data());
                 return as_bytes(out.data(), out.size());
             })
        .def("set_orders",
             [](core_machine &c, u32 id, u32 orders) {
                 if (orders & ~(THP_ORDERS_ALL_ANON | 1U)) throw nb::value_error("orders are 0 and 2 to 9");
                 vma_by_id(c, id);
                 return decide(*c.m, {id, VERB_ORDERS, orders});
             })
        .def("split",
             [](core_machine &c, u32 id) {
                 vma_by_id(c, id);
                 return decide(*c.m, {id, VERB_SPLIT, 0});
             })
        .def("madvise",
             [](core_machine &c, u32 id, u32 advice) {
                 vma_by_id(c, id);
                 return decide(*c.m, {id, VERB_ADVISE, advice});
             })
        .def("set_thp",
             [](core_machine &c, u32 order, u32 mode) {
                 if (order > PMD_ORDER || mode > THP_INHERIT) throw nb::value_error("no such order or mode");
                 c.m->h->thp_mode[order] = mode;
             })
        .def("set_default_orders", [](core_machine &c, u32 orders) { c.m->h->default_orders = orders; })
        .def("set_order_interface",
             [](core_machine &c, u32 interface) {
                 if (interface >= NR_ORDER_INTERFACES) throw nb::value_error("no such interface");
                 c.m->h->order_interface = interface;
             })
        .def_prop_ro("question",
                     [](const core_machine &c) {
                         const machine &m = *c.m;
                         const order_question &q = m.h->question;
                         const u32 v = q.state == ORDER_ASKED ? vma_lookup(m, q.mm, q.address) : NIL;
                         if (v == NIL) return nb::object(nb::none());
                         return nb::object(nb::make_tuple(m.vmas[v].id, q.mm, q.address, q.type, q.orders));
                     })
        .def("resolve", [](core_machine &c, u32 order) { return thp_resolve(*c.m, order); });

    nb::class_<core_batch>(module, "CoreBatch")
        .def(nb::init<const nb::list &, u32>())
        .def("set",
             [](core_batch &b, size_t i, nb::object machine) { b.machines.at(i) = std::move(machine); })
        .def(
            "advance",
            [](core_batch &b, const array_of<const u8> &active,
               const std::optional<array_of<const u32>> &decisions, u64 ps, u64 choices, u64 accesses,
               bool new_vma, u32 question, u32 nr_slots, u32 every, const std::optional<array_of<u32>> &slots,
               const std::optional<array_of<u8>> &rows, const array_of<u8> &status) {
                b.advance(active, decisions, {ps, choices, accesses, new_vma, question, nr_slots, every},
                          slots, rows, status);
            },
            "active"_a, "decisions"_a, "ps"_a, "choices"_a, "accesses"_a, "new_vma"_a, "question"_a,
            "nr_slots"_a, "every"_a, "slots"_a, "rows"_a, "status"_a)
        .def("facts", &core_batch::facts);
}

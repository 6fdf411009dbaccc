// nanobind, and nothing else: the C++ core as the Python module thp_env.machine._core.
#include "bindings.hpp"
#include "access_stream.hpp"
#include "batch.hpp"
#include "hardware/tlb.hpp"
#include "hardware/tlb_misses.hpp"
#include "kernel/huge_memory.hpp"
#include "kernel/huge_memory_bpf.hpp"
#include "kernel/mmap.hpp"
#include "kernel/page_alloc.hpp"
#include "kernel/task_mmu.hpp"
#include "kernel/vmstat.hpp"
#include "run.hpp"
#include "validate.hpp"
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;
using namespace thp;

namespace {

using bytes_array = nb::ndarray<const u8, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T> const T *records(const bytes_array &a, u64 *n) {
    *n = a.shape(0) / sizeof(T);
    return reinterpret_cast<const T *>(a.data());
}

program_view view_of(const bytes_array &ops, const bytes_array &accesses, const bytes_array &bins,
                     const bytes_array &alias_tables, u64 seed) {
    program_view p;
    u64 unused = 0;
    p.ops = records<op_record>(ops, &p.nr_ops);
    p.accesses = records<access_record>(accesses, &unused);
    p.bins = records<bin_record>(bins, &unused);
    p.alias_tables = records<u32>(alias_tables, &unused);
    p.seed = seed;
    return p;
}

std::vector<nb::object> owners(const bytes_array &ops, const bytes_array &accesses, const bytes_array &bins,
                               const bytes_array &alias_tables) {
    return {nb::cast(ops), nb::cast(accesses), nb::cast(bins), nb::cast(alias_tables)};
}

tlb_geometry make_geometry(const nb::handle &h) {
    const auto [sets, ways] = nb::cast<std::pair<u32, u32>>(h);
    return {sets, ways};
}

template <typename T, size_t N, typename Make> void fill_array(T (&out)[N], nb::handle list, Make make) {
    if (nb::len(list) != N) throw nb::value_error("a TLB parameter has another number of values");
    size_t i = 0;
    for (const nb::handle item : list) out[i++] = make(item);
}

tlb_config make_tlb(const nb::dict &d) {
    constexpr auto number = [](nb::handle h) { return nb::cast<u32>(h); };
    tlb_config c{};
    fill_array(c.arrays, d["arrays"], make_geometry);
    fill_array(c.pwc, d["pwc"], make_geometry);
    fill_array(c.of_size[0], d["l1_of_size"], number);
    fill_array(c.of_size[1], d["l2_of_size"], number);
    fill_array(c.walk_cycles, d["walk_cycles"], number);
    c.coalesced_order = number(d["coalesced_order"]);
    c.plru = number(d["plru"]);
    c.hashed = number(d["hashed"]);
    c.nr_asids = number(d["nr_asids"]);
    c.l2_hit_cycles = number(d["l2_hit_cycles"]);
    c.nested_shift = number(d["nested_shift"]);
    c.nested_cycles = number(d["nested_cycles"]);
    c.nested = make_geometry(d["nested"]);
    return c;
}

machine_config make_config(const nb::dict &d) {
    machine_config c{};
    c.nr_pages = nb::cast<u64>(d["nr_pages"]);
    c.max_vmas = nb::cast<u32>(d["max_vmas"]);
    c.max_mms = nb::cast<u32>(d["max_mms"]);
    c.max_page_tables = nb::cast<u32>(d["max_page_tables"]);
    c.nr_cpus = nb::cast<u32>(d["nr_cpus"]);
    c.min_free_kbytes = nb::cast<u32>(d["min_free_kbytes"]);
    c.shadow_tlb = nb::cast<bool>(d["shadow_tlb"]) ? 1 : 0;
    c.time_by_vma = nb::cast<bool>(d["time_by_vma"]) ? 1 : 0;
    c.flush_time = nb::cast<u64>(d["flush_time"]);
    c.arch = nb::cast<u32>(d["arch"]);
    c.features = nb::cast<u32>(d["features"]);
    c.pool_blocks = nb::cast<u32>(d["pool_blocks"]);
    c.tlb = make_tlb(d["tlb"]);
    const nb::dict clock = d["clock"];
#define X(name) c.clock.name = nb::cast<u64>(clock[#name]);
    THP_CLOCK(X)
#undef X
    return c;
}

// A machine from a stranger's bytes, which is looked through. Ctrl-C leaves everything as it was.
std::unique_ptr<machine> loaded(core_machine &c, const nb::bytes &data, u64 program) {
    static const std::function<bool()> asked = interrupted;
    machine *copy = nullptr;
    try {
        const watching watched(c.m->host, asked);
        std::string error =
            c.m->load(reinterpret_cast<const std::byte *>(data.c_str()), data.size(), program, &copy);
        std::unique_ptr<machine> m(copy);
        if (c.m->host.stop) throw nb::python_error();
        if (error.empty()) {
            const watching also(m->host, asked);
            error = validate_loaded(*m, c.program);
            if (m->host.stop) throw nb::python_error();
        }
        if (!error.empty()) throw machine_error("not a saved machine: " + error);
        return m;
    } catch (const stopped_midway &) {
        throw nb::python_error();
    }
}

// Making a machine, copying it, saving it.
void bind_copies(nb::class_<core_machine> &machines) {
    machines
        .def_static(
            "create",
            [](const nb::dict &config, u32 regions, u32 processes, u32 swap_slots, u32 file_pages,
               u64 brk_start, u64 mmap_base, const bytes_array &ops, const bytes_array &accesses,
               const bytes_array &bins, const bytes_array &alias_tables, u64 seed) {
                const machine_config c = make_config(config);
                if (const std::string error = check_config(c); !error.empty())
                    throw nb::value_error(error.c_str());
                auto m =
                    std::make_unique<machine>(c, program_size{regions, processes, swap_slots, file_pages});
                if (!boot(*m, brk_start, mmap_base)) throw nb::value_error("no memory for the first process");
                return new core_machine(std::move(m), view_of(ops, accesses, bins, alias_tables, seed),
                                        owners(ops, accesses, bins, alias_tables));
            })
        .def("clone", reading([](core_machine &c, u64 share_from) {
                 std::unique_ptr<machine> copy(c.m->clone(share_from));
                 return new core_machine(std::move(copy), c.program, c.keep);
             }),
             "share_from"_a = host_memory::SHARE_FROM)
        .def("equals",
             [](core_machine &a, core_machine &b) {
                 if (&a == &b) return true;
                 const in_use first(a), second(b);
                 return a.m->equals(*b.m);
             })
        .def("save", reading([](core_machine &c, u64 program) {
                 const std::vector<std::byte> data = c.m->save(program);
                 return as_bytes(data.data(), data.size());
             }))
        .def("load", [](core_machine &c, const nb::bytes &data, u64 program) {
            const in_use held(c, true);
            std::unique_ptr<machine> m = loaded(c, data, program);
            c.m = std::move(m);
            c.broken = false;
        });
}

// The addresses that the next operation accesses, from one of its steps on, with the lowest bit set for
// writes.
std::vector<u64> upcoming(core_machine &c, u64 first, u64 count) {
    const u64 at = c.m->h->at.op;
    if (at >= c.program.nr_ops) return {};
    const op_record &op = c.program.ops[at];
    if (op.op != OP_touch && op.op != OP_access && op.op != OP_replay) return {};
    const u64 all = steps_of(op), end = first < all ? first + std::min(count, all - first) : first;
    std::vector<u64> out(end - first);
    const access_stream stream(*c.m, c.program, op);
    access_block b;
    for (u64 done = first; done < end;) {
        const u64 nr = std::min(end - done, access_block::SIZE);
        stream.write(b, done, nr);
        for (u64 i = 0; i < nr; ++i) out[done - first + i] = (b.address[i] & ~(PAGE_SIZE - 1)) | b.write[i];
        done += nr;
    }
    return out;
}

// Its program, and running it.
void bind_running(nb::class_<core_machine> &machines) {
    machines
        .def("extend", changing([](core_machine &c, u32 regions, u32 processes, const bytes_array &ops,
                                   const bytes_array &accesses, const bytes_array &bins,
                                   const bytes_array &alias_tables, u64 seed, bool goes_on) {
                 const arena_array *const a = c.m->h->arrays;
                 if (regions > a[ARRAY_regions].capacity || processes > a[ARRAY_processes].capacity)
                     throw machine_error("the machine has no room for so many regions or processes");
                 c.program = view_of(ops, accesses, bins, alias_tables, seed);
                 c.keep = owners(ops, accesses, bins, alias_tables);
                 if (goes_on) return;
                 c.m->h->at.step = c.m->h->at.time_vma_id = 0;
                 c.m->h->at.call = {};
             }))
        .def(
            "run",
            [](core_machine &c, u64 until, u64 choices, u64 ops, u64 accesses, bool new_vma, bool go_on,
               bool fast) {
                const in_use held(c);
                const run_budget budget{until, choices, ops, accesses, new_vma, go_on, fast};
                run_status status = RUN_WINDOW;
                try {
                    nb::gil_scoped_release nogil;
                    status = run_interruptible(*c.m, c.program, budget, interrupted);
                } catch (const stopped_midway &) {
                    c.broken = true;
                    throw nb::python_error();
                }
                if (c.m->host.stop) throw nb::python_error();
                if (status == RUN_OVERFLOW) throw machine_error(overflow_of(*c.m));
                return static_cast<u32>(status);
            },
            "until"_a, "choices"_a, "ops"_a, "accesses"_a, "new_vma"_a, "go_on"_a, "fast"_a = true)
        .def("upcoming", reading([](core_machine &c, u64 first, u64 count) {
                 const std::vector<u64> out = upcoming(c, first, count);
                 return as_bytes(out.data(), out.size());
             }));
}

// Where it stands, and what it counts.
void bind_state(nb::class_<core_machine> &machines) {
    machines
        .def("position", reading([](core_machine &c) { return std::tuple(c.m->h->at.op, c.m->h->at.step); }))
        // Whether the next operation has begun: what run() does next is the rest of it.
        .def("under_way", reading([](core_machine &c) {
                 const cursor &at = c.m->h->at;
                 return !at.oom &&
                        (at.step > 0 || at.call.reached > 0 || c.m->h->question.state != ORDER_IDLE);
             }))
        .def_prop_ro("clock", reading([](core_machine &c) { return c.m->h->clock; }))
        .def_prop_ro("error", reading([](core_machine &c) { return c.m->h->at.error; }))
        .def_prop_ro("warned", reading([](core_machine &c) { return c.m->h->warned; }))
        .def_prop_ro("state_bytes", reading([](core_machine &c) { return c.m->used_bytes(); }))
        .def("counters", reading([](core_machine &c) {
                 const header &h = *c.m->h;
                 return std::tuple(as_bytes(h.vm, NR_VM_EVENTS),
                                   as_bytes(&h.mthp[0][0], (PMD_ORDER + 1) * NR_MTHP_STATS),
                                   as_bytes(h.times, NR_TIMES), h.clock);
             }))
        .def_prop_ro("fault_latency", reading([](core_machine &c) {
                         const u64 *counts = c.m->h->fault_latency;
                         return std::vector<u64>(counts, counts + NR_LATENCIES);
                     }));
}

// What decides about VMAs and sizes.
void bind_decisions(nb::class_<core_machine> &machines) {
    machines
        .def("set_orders", changing([](core_machine &c, u32 id, u32 orders) {
                 if (orders & ~THP_ORDERS_ALL) throw machine_error("orders are 0 and 2 to 9");
                 vma_by_id(c, id);
                 return decide(*c.m, {id, VERB_ORDERS, orders});
             }))
        .def("split", changing([](core_machine &c, u32 id) {
                 vma_by_id(c, id);
                 return decide(*c.m, {id, VERB_SPLIT, 0});
             }))
        .def("madvise", changing([](core_machine &c, u32 id, u32 advice) {
                 vma_by_id(c, id);
                 return decide(*c.m, {id, VERB_ADVISE, advice});
             }))
        .def("set_thp", changing([](core_machine &c, u32 order, u32 mode) {
                 if (order > PMD_ORDER || mode > THP_INHERIT) throw nb::value_error("no such order or mode");
                 c.m->h->thp_mode[order] = mode;
                 setup_per_zone_wmarks(*c.m);
             }))
        .def("set_default_orders",
             changing([](core_machine &c, u32 orders) { c.m->h->default_orders = orders; }))
        .def("set_order_hook", changing([](core_machine &c, u32 hook) {
                 if (hook >= NR_ORDER_HOOKS) throw nb::value_error("no such hook");
                 c.m->h->order_hook = hook;
                 if (c.m->h->question.state == ORDER_ASKED) c.m->h->question = {}; // the fault comes again
             }))
        .def_prop_ro("question", reading([](core_machine &c) {
                         const machine &m = *c.m;
                         const order_question &q = m.h->question;
                         const u32 v = q.state == ORDER_ASKED ? vma_lookup(m, q.mm, q.address) : NIL;
                         using asked = std::tuple<u32, u32, u64, u32, u32>;
                         if (v == NIL) return std::optional<asked>();
                         return std::optional<asked>({m.vmas[v].id, q.mm, q.address, q.type, q.orders});
                     }))
        .def("resolve", changing([](core_machine &c, u32 order) { return thp_resolve(*c.m, order); }));
}

} // namespace

NB_MODULE(_core, module) { // NOLINT(performance-unnecessary-value-param)
    module.doc() = "The simulated machine: a C++ core. Use thp_env.machine.Machine.";

    bind_schema(module);
    nb::exception<machine_error>(module, "MachineError", PyExc_ValueError).attr("__module__") =
        "thp_env.machine";
    module.def("check_tlb", [](const nb::dict &tlb) { return check_tlb(make_tlb(tlb)); });
    module.def(
        "tlb_misses",
        [](const nb::dict &tlb, const addresses_array &addresses, const bytes_array &sizes, u32 shift) {
            const tlb_config c = make_tlb(tlb);
            const u8 *each = sizes.shape(0) ? sizes.data() : nullptr;
            tlb_counts misses{};
            {
                nb::gil_scoped_release nogil;
                misses = tlb_misses(c, addresses.data(), each, addresses.shape(0), shift);
            }
            return std::tuple(misses.l1, misses.l2);
        },
        "tlb"_a, "addresses"_a, "sizes"_a, "shift"_a);

    nb::class_<core_machine> machines(module, "CoreMachine");
    bind_copies(machines);
    bind_running(machines);
    bind_state(machines);
    bind_memory(machines);
    bind_decisions(machines);
    bind_policy(machines);
    bind_batch(module);
}

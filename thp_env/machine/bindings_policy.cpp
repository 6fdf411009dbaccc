// What a policy reads and does beside its decisions.
#include "batch.hpp"
#include "bindings.hpp"
#include "kernel/contpte.hpp"
#include "kernel/khugepaged.hpp"
#include "kernel/memcontrol.hpp"
#include "kernel/page_idle.hpp"
#include "kernel/process_madvise.hpp"
#include "kernel/psi.hpp"
#include "occupancy.hpp"
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace thp {

namespace {

// The end of a range of pages of a process that is there; the last page below 2^47 is no program's.
u64 checked_range(const core_machine &c, u32 mm, u64 start, u64 end) {
    if (mm >= c.m->h->arrays[ARRAY_mms].used || !c.m->mms[mm].in_use) throw nb::index_error("no such mm");
    const u64 last = std::min(end, TASK_SIZE);
    if (start % PAGE_SIZE || end % PAGE_SIZE || start > last || end > TASK_SIZE + PAGE_SIZE)
        throw machine_error("a range must begin and end at pages of a program");
    return last;
}

using stall = std::tuple<std::vector<u64>, u64>; // averages and total
using memcg_row = std::tuple<u32, u64, u64, u64, u64, u64, u32, std::vector<u64>, std::tuple<stall, stall>>;

// Of both states, up to date.
std::tuple<stall, stall> pressure_of(const machine &m, psi_group g) {
    psi_update(m, g);
    const auto of = [&g](psi_state s) {
        return stall(std::vector<u64>(g.avg[s], g.avg[s] + NR_PSI_AVGS), g.total[s]);
    };
    return {of(PSI_SOME), of(PSI_FULL)};
}

std::vector<memcg_row> memcgs_of(const machine &m) {
    std::vector<memcg_row> out;
    for (u32 i = 0; i < nr_memcgs(m); ++i) {
        const mem_cgroup &g = m.memcgs[i];
        if (!g.made) continue;
        out.emplace_back(i, g.usage, g.usage - g.stock, g.watermark, g.max, g.swap, g.swappiness,
                         std::vector<u64>(g.events, g.events + NR_MEMCG_EVENTS), pressure_of(m, g.psi));
    }
    return out;
}

// Of a range of a process's addresses: decisions, and what is mapped and in use.
void bind_ranges(nb::class_<core_machine> &machines) {
    machines
        .def("decide_range", changing([](core_machine &c, u32 mm, u64 start, u64 end, u32 verb, u32 value) {
                 const u64 last = checked_range(c, mm, start, end);
                 return decide_range(*c.m, mm, start, last, verb, value);
             }))
        .def("test_and_clear_young", changing([](core_machine &c, u32 mm, const addresses_array &addresses) {
                 checked_range(c, mm, 0, 0);
                 std::vector<u8> bits(addresses.shape(0));
                 for (size_t i = 0; i < bits.size(); ++i) {
                     if (addresses.data()[i] >= TASK_SIZE)
                         throw machine_error("an address is none of a program");
                 }
                 test_and_clear_young(*c.m, mm, addresses.data(), bits.size(), bits.data());
                 return as_bytes(bits.data(), bits.size());
             }))
        .def("count_zero_pages", changing([](core_machine &c, u32 mm, u64 start, u64 end) {
                 return count_zero_pages(*c.m, mm, start, checked_range(c, mm, start, end));
             }))
        .def("mapped_orders", reading([](core_machine &c, u32 mm, u64 start, u64 end) {
                 const u64 pages = (checked_range(c, mm, start, end) - start) >> PAGE_SHIFT;
                 if (pages > MAX_PAGEMAP) throw machine_error("at most 64 GiB of addresses at once");
                 std::vector<i8> out(pages);
                 mapped_orders(*c.m, mm, start, end, out.data());
                 return as_bytes(out.data(), out.size());
             }))
        .def("occupied_blocks", reading([](core_machine &c, u32 mm, u64 start, u64 end) {
                 const auto out = occupied_blocks(*c.m, mm, start, checked_range(c, mm, start, end));
                 return as_bytes(out.data(), out.size());
             }))
        .def("occupancy_by_size", reading([](core_machine &c, u32 mm, u64 start, u64 end) {
                 size_occupancy out[PMD_ORDER + 1] = {};
                 occupancy_by_size(*c.m, mm, start, checked_range(c, mm, start, end), out);
                 return as_bytes(out, PMD_ORDER + 1);
             }))
        .def("blocks_with_holes", reading([](core_machine &c, u32 mm, u64 start, u64 end) {
                 const auto out = blocks_with_holes(*c.m, mm, start, checked_range(c, mm, start, end));
                 return as_bytes(out.data(), out.size());
             }));
}

// System calls on a range of a process's addresses.
void bind_range_calls(nb::class_<core_machine> &machines) {
    machines
        .def("process_madvise", changing([](core_machine &c, u32 caller, u32 target,
                                            const addresses_array &ranges, u64 advice, u32 orders) {
                 const auto mm_of = [&](u32 process) {
                     if (process >= c.m->h->arrays[ARRAY_processes].used)
                         throw nb::index_error("no such process");
                     return c.m->processes[process];
                 };
                 std::vector<address_range> vector(ranges.shape(0) / 2);
                 for (size_t i = 0; i < vector.size(); ++i)
                     vector[i] = {ranges.data()[2 * i], ranges.data()[2 * i + 1]};
                 const u32 own = mm_of(caller), other = mm_of(target);
                 if (own == NIL) throw machine_error("the caller has ended");
                 c.m->spend(TIME_syscall, c.m->cost().syscall);
                 return process_madvise(*c.m, own, other, vector.data(), vector.size(), advice, orders);
             }))
        .def("collapse", changing([](core_machine &c, u32 mm, u64 start, u64 end, u32 order) {
                 if (order < 2 || order > PMD_ORDER) throw machine_error("orders are 2 to 9");
                 c.m->spend(TIME_syscall, c.m->cost().syscall);
                 return collapse_range(*c.m, mm, start, checked_range(c, mm, start, end), order);
             }))
        .def("read_blocks", changing([](core_machine &c, u32 mm, u64 start, u64 end, bool clear) {
                 if ((checked_range(c, mm, start, end) - start) >> PAGE_SHIFT > MAX_PAGEMAP)
                     throw machine_error("at most 64 GiB of addresses at once");
                 std::vector<u8> bits((end - start + CONT_PTE_SIZE - 1) / CONT_PTE_SIZE);
                 read_blocks(*c.m, mm, start, bits.size(), clear, bits.data());
                 return as_bytes(bits.data(), bits.size());
             }));
}

// Of the whole system: control groups, pressure, page walks, settings.
void bind_system(nb::class_<core_machine> &machines) {
    machines.def("memcgs", reading([](core_machine &c) { return memcgs_of(*c.m); }))
        .def("memcg_of", reading([](core_machine &c, u32 mm) {
                 checked_range(c, mm, 0, 0);
                 return c.m->mms[mm].memcg;
             }))
        .def("pressure", reading([](core_machine &c) { return pressure_of(*c.m, c.m->h->psi_system); }))
        .def("sample_walks",
             changing([](core_machine &c, u64 period) { c.m->h->policy.walk_period = period; }))
        .def("take_walk_samples", changing([](core_machine &c) {
                 u32 &used = c.m->h->arrays[ARRAY_walk_samples].used;
                 nb::bytes out = as_bytes(c.m->walk_samples, used);
                 std::fill_n(c.m->walk_samples, used, walk_sample{});
                 used = 0;
                 return out;
             }))
        .def("set", changing([](core_machine &c, u32 index, u32 value) {
                 if (index >= NR_SETTINGS) throw nb::value_error("no such setting");
                 apply_setting(*c.m, index, value);
             }))
        .def("khugepaged", changing([](core_machine &c, u64 pages, u64 sleep, u64 alloc_sleep) {
                 policy_signals &h = c.m->h->policy;
                 h.khugepaged_pages = pages;
                 h.khugepaged_sleep = sleep;
                 h.khugepaged_alloc_sleep = alloc_sleep;
                 h.khugepaged_wakes = saturating_add(c.m->h->clock, sleep);
             }));
}

} // namespace

void bind_policy(nb::class_<core_machine> &machines) {
    bind_ranges(machines);
    bind_range_calls(machines);
    bind_system(machines);
}

} // namespace thp

// What can be read of a machine's memory.
#include "bindings.hpp"
#include "kernel/mmap.hpp"
#include "kernel/page_alloc.hpp"
#include "kernel/task_mmu.hpp"
#include "kernel/vmstat.hpp"
#include "monitor.hpp"
#include "validate.hpp"
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace thp {

u32 vma_by_id(const core_machine &c, u32 id) {
    const u32 v = vma_of_id(*c.m, id);
    if (v == NIL) throw nb::key_error(("no VMA with id " + std::to_string(id)).c_str());
    return v;
}

namespace {

using vma_row = std::tuple<u32, u32, u64, u64, u32, u32, u64, u64>; // the fields of Vma

vma_row row_of(const vm_area_struct &v) {
    u64 faults = 0;
    for (const u64 n : v.faults) faults += n;
    return {v.id, v.vm_mm, v.vm_start, v.vm_end, v.vm_flags, v.orders, v.born, faults};
}

// A machine's physical memory.
void bind_zone(nb::class_<core_machine> &machines) {
    machines
        .def_prop_ro("free_blocks", // by migrate type and order
                     reading([](core_machine &c) {
                         std::vector<std::vector<u32>> out(MIGRATE_PCPTYPES);
                         for (u32 type = 0; type < MIGRATE_PCPTYPES; ++type)
                             for (u32 order = 0; order <= MAX_PAGE_ORDER; ++order)
                                 out[type].push_back(nr_free_blocks(*c.m, order, type));
                         return out;
                     }))
        .def_prop_ro("pageblocks", reading([](core_machine &c) {
                         std::vector<u32> out(MIGRATE_PCPTYPES);
                         const auto all = static_cast<u32>(c.m->h->config.nr_pages >> PAGEBLOCK_ORDER);
                         const u32 used = std::min(all, c.m->h->arrays[ARRAY_pageblocks].used);
                         for (u32 i = 0; i < used; ++i)
                             ++out[get_pageblock_migratetype(*c.m, i << PAGEBLOCK_ORDER)];
                         out[MIGRATE_MOVABLE] += all - used; // memory that has no record yet
                         return out;
                     }))
        .def_prop_ro("watermarks", reading([](core_machine &c) {
                         const u32 *mark = c.m->h->zone.watermark;
                         return std::tuple(mark[WMARK_MIN], mark[WMARK_LOW], mark[WMARK_HIGH]);
                     }))
        .def("unusable_free_index", reading([](core_machine &c, u32 order) {
                 if (order > MAX_PAGE_ORDER) throw nb::value_error("orders are 0 to 10");
                 return unusable_free_index(*c.m, order);
             }))
        .def("fragmentation_index", reading([](core_machine &c, u32 order) {
                 if (order > MAX_PAGE_ORDER) throw nb::value_error("orders are 0 to 10");
                 return fragmentation_index(*c.m, order);
             }))
        .def("validate", reading([](core_machine &c) { return validate(*c.m); }))
        .def_prop_ro("nr_free_pages", reading([](core_machine &c) { return nr_free_pages(*c.m); }));
}

// A machine's processes and their address spaces.
void bind_address_spaces(nb::class_<core_machine> &machines) {
    machines
        .def("process", reading([](core_machine &c, u32 number) {
                 const machine &m = *c.m;
                 if (number >= m.h->arrays[ARRAY_processes].used) throw nb::index_error("no such process");
                 const u32 mm = m.processes[number];
                 using process = std::tuple<u32, u64, u64, u64, u32>;
                 if (mm == NIL) return std::optional<process>();
                 const mm_struct &s = m.mms[mm];
                 return std::optional<process>({mm, s.rss, s.minflt, s.majflt, s.map_count});
             }))
        .def("region", reading([](core_machine &c, u32 number) {
                 if (number >= c.m->h->arrays[ARRAY_regions].used) throw nb::index_error("no such region");
                 const region &r = c.m->regions[number];
                 return std::tuple(r.start, r.length);
             }))
        .def("vmas", reading([](core_machine &c) {
                 std::vector<vma_row> out;
                 out.reserve(c.m->h->nr_vmas);
                 for (u32 i = 0; i < c.m->h->nr_vmas; ++i)
                     out.push_back(row_of(c.m->vmas[c.m->vma_order[i]]));
                 return out;
             }))
        .def("vma", reading([](core_machine &c, u32 id) { return row_of(c.m->vmas[vma_by_id(c, id)]); }))
        .def("mapped_bytes", reading([](core_machine &c) {
                 u64 bytes = 0;
                 for (u32 i = 0; i < c.m->h->nr_vmas; ++i) {
                     const vm_area_struct &v = c.m->vmas[c.m->vma_order[i]];
                     bytes += v.vm_end - v.vm_start;
                 }
                 return bytes;
             }))
        .def("smaps", changing([](core_machine &c, u32 id, bool clear_refs) {
                 const vma_smaps s = smaps(*c.m, vma_by_id(c, id), clear_refs);
                 return as_bytes(&s, 1);
             }))
        .def("pagemap", reading([](core_machine &c, u32 mm, u64 start, u64 pages) {
                 if (mm >= c.m->h->arrays[ARRAY_mms].used || !c.m->mms[mm].in_use)
                     throw nb::index_error("no such mm");
                 if (start % PAGE_SIZE || start > TASK_SIZE || pages > (TASK_SIZE - start) / PAGE_SIZE)
                     throw machine_error("a range must begin at a page and lie within a program's addresses");
                 if (pages > MAX_PAGEMAP) throw machine_error("at most 64 GiB of addresses at once");
                 std::vector<page_layout> out(pages);
                 pagemap(*c.m, mm, start, pages, out.data());
                 return as_bytes(out.data(), out.size());
             }));
}

} // namespace

void bind_memory(nb::class_<core_machine> &machines) {
    bind_zone(machines);
    bind_address_spaces(machines);
}

} // namespace thp

#include "filemap.hpp"
#include "lru.hpp"
#include "memcontrol.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include <algorithm>

namespace thp {

namespace {

constexpr u64 FAULT_AROUND_BYTES = 65536; // mm/memory.c: fault_around_pages
constexpr u8 FILE_CONTENT = 50;           // compresses by half; nobody asks

// The entry of the page cache for an address of a mapping.
u32 &cached_page(machine &m, const vm_area_struct &v, u64 address) {
    return m.page_cache[v.vm_file - 1 + v.vm_pgoff + ((address - v.vm_start) >> PAGE_SHIFT)];
}

// Whether the file is that long; beyond its end is SIGBUS.
bool in_file(const vm_area_struct &v, u64 address) {
    return v.vm_pgoff + ((address - v.vm_start) >> PAGE_SHIFT) < v.file_pages;
}

// The page at an address, read in if need be: files are on a fast disk, reading takes no time. NIL: no
// memory.
u32 filemap_get_page(machine &m, const vm_area_struct &v, u64 address) {
    u32 &pfn = cached_page(m, v, address);
    if (pfn) return pfn;
    const u32 fresh = alloc_pages(m, 0, MIGRATE_MOVABLE, GFP_KERNEL);
    if (fresh == NIL) return NIL;
    m.pages[fresh].flags = PG_head | PG_file;
    m.pages[fresh].refcount = 1; // the page cache's
    m.pages[fresh].anon_vma = NIL;
    m.contents[fresh] = CONTENT_TOUCHED | FILE_CONTENT;
    m.count(VM_nr_file_pages);
    return pfn = fresh;
}

void map_page(machine &m, u32 mm, u64 *pte, u32 pfn, u64 bits) {
    *pte = mk_pte(pfn, bits);
    folio_get(m, pfn, 1);
    ++m.pages[pfn].mapcount;
    ++m.mms[mm].rss;
}

// do_read_fault: the page, and what else of its aligned 64K lies in the VMA, read-only.
vm_fault do_read_fault(machine &m, const vm_area_struct &v, u64 address, u64 *pte) {
    const u64 block = align_down(address, FAULT_AROUND_BYTES);
    const u64 start = std::max(block, v.vm_start), end = std::min(block + FAULT_AROUND_BYTES, v.vm_end);
    pte -= (address - start) >> PAGE_SHIFT;
    for (u64 at = start; at < end; at += PAGE_SIZE, ++pte) {
        if (!pte_none(*pte) || !in_file(v, at)) continue;
        const bool is_faulting = at == address;
        const u32 pfn = filemap_get_page(m, v, at);
        if (pfn == NIL && is_faulting) return FAULT_OOM;
        if (pfn == NIL || !pte_none(*pte)) continue;
        map_page(m, v.vm_mm, pte, pfn, vma_pte_bits(v, false) | (is_faulting ? u64{PTE_ACCESSED} : 0));
        m.spend(TIME_fault, is_faulting ? 0 : m.cost().change_pte);
    }
    return FAULT_DONE;
}

// do_cow_fault: a private copy at once.
vm_fault do_cow_fault(machine &m, u32 vma, u64 address, u64 *pte) {
    const vm_area_struct &v = m.vmas[vma];
    if (!anon_vma_prepare(m, vma)) return FAULT_OOM;
    const u32 pfn = filemap_get_page(m, v, address),
              copy = pfn == NIL ? NIL : folio_prealloc(m, vma_memcg(m, v));
    if (copy == NIL) return FAULT_OOM;
    m.contents[copy] = static_cast<u8>(m.contents[copy] | FILE_CONTENT);
    m.spend(TIME_copying, m.cost().copy_page);
    folio_add_new_anon_rmap(m, copy, vma, address, false);
    folio_add_lru_vma(m, copy, vma);
    *pte = mk_pte(copy, vma_pte_bits(v, true) | PTE_ACCESSED | PTE_DIRTY);
    return FAULT_DONE;
}

} // namespace

u32 file_create(machine &m, u64 pages) {
    arena_array &t = m.h->arrays[ARRAY_page_cache];
    if (pages > t.capacity - t.used) return 0;
    const u32 file = t.used + 1;
    t.used += static_cast<u32>(pages);
    return file;
}

vm_fault do_fault(machine &m, u32 vma, u64 address, u64 *pmd, bool write) {
    if (!pte_alloc(m, pmd)) return FAULT_OOM;
    const vm_area_struct &v = m.vmas[vma];
    address = align_down(address, PAGE_SIZE);
    if (!in_file(v, address)) return FAULT_SIGSEGV;
    u64 *pte = pte_offset(m, *pmd, address);
    m.spend(TIME_fault, m.cost().fault);
    if (!write) return do_read_fault(m, v, address, pte);
    if (!(v.vm_flags & VM_SHARED)) return do_cow_fault(m, vma, address, pte);
    const u32 pfn = filemap_get_page(m, v, address); // do_shared_fault
    if (pfn == NIL) return FAULT_OOM;
    map_page(m, v.vm_mm, pte, pfn, vma_pte_bits(v, true) | PTE_ACCESSED | PTE_DIRTY);
    return FAULT_DONE;
}

} // namespace thp

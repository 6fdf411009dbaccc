#include "page_table.hpp"
#include "page_alloc.hpp"
#include <algorithm>
#include <cstring>

namespace thp {

namespace {

u64 *entry(machine &m, u32 table, u64 address, u32 shift) {
    return m.page_tables + u64{table} * PTRS_PER_TABLE + ((address >> shift) & (PTRS_PER_TABLE - 1));
}

u64 *next_table(machine &m, u64 *slot, u64 address, u32 shift, bool allocate) {
    if (!(*slot & PTE_PRESENT)) {
        if (!allocate) return nullptr;
        const u32 table = table_page_alloc(m, GFP_KERNEL);
        if (table == NIL) return nullptr;
        *slot = mk_pte(table, PTE_PRESENT | PTE_RW);
    }
    return entry(m, pte_pfn(*slot), address, shift);
}

u64 *walk_to_pmd(machine &m, u32 mm, u64 address, bool allocate) {
    u64 *slot = entry(m, m.mms[mm].pgd, address, PGDIR_SHIFT);
    slot = next_table(m, slot, address, PUD_SHIFT, allocate);
    return slot ? next_table(m, slot, address, PMD_SHIFT, allocate) : nullptr;
}

// Frees the tables under one entry that serve [start, end), then its own where nothing else needs it.
void free_range(machine &m, u64 *slot, u32 shift, u64 base, u64 start, u64 end, u64 floor, u64 ceiling) {
    if (!(*slot & PTE_PRESENT) || (*slot & PTE_PSE)) return;
    const u32 table = pte_pfn(*slot);
    const u64 limit = base + (1ULL << shift);
    if (shift > PMD_SHIFT) {
        const u32 below = shift - 9;
        const u64 step = 1ULL << below;
        for (u64 at = std::max(base, align_down(start, step)); at < std::min(limit, end); at += step) {
            free_range(m, entry(m, table, at, below), below, at, start, end, floor, ceiling);
        }
    }
    if (base >= floor && limit <= ceiling) {
        table_page_free(m, table);
        *slot = 0;
    }
}

} // namespace

u64 *pmd_offset(machine &m, u32 mm, u64 address) { return walk_to_pmd(m, mm, address, false); }

u64 *pmd_alloc(machine &m, u32 mm, u64 address) { return walk_to_pmd(m, mm, address, true); }

u64 *pte_lookup(machine &m, u32 mm, u64 address) {
    u64 *pmd = pmd_offset(m, mm, address);
    return pmd && pmd_is_table(*pmd) ? pte_offset(m, *pmd, address) : nullptr;
}

u64 follow_entry(machine &m, u32 mm, u64 address) {
    const u64 *pmd = pmd_offset(m, mm, address);
    if (!pmd) return 0;
    return pmd_is_table(*pmd) ? *pte_offset(m, *pmd, address) : *pmd;
}

bool pte_alloc(machine &m, u64 *pmd) {
    if (!pte_none(*pmd)) return true;
    const u32 table = table_page_alloc(m, GFP_KERNEL);
    if (table == NIL) return false;
    *pmd = mk_pte(table, PTE_PRESENT | PTE_RW);
    return true;
}

u32 table_page_alloc(machine &m, u32 gfp) {
    arena_array &t = m.h->arrays[ARRAY_page_tables];
    const u32 pfn = alloc_pages(m, 0, MIGRATE_UNMOVABLE, gfp);
    if (pfn == NIL) return NIL;
    if (t.free == NIL && t.used == t.capacity) {
        free_pages(m, pfn, 0);
        return NIL;
    }
    m.pages[pfn].flags = PG_table;
    m.pages[pfn].refcount = 1;
    u32 table = t.free;
    if (table != NIL) {
        t.free = m.page_table_frames[table];
    } else {
        table = t.used++;
        m.h->arrays[ARRAY_page_table_frames].used = t.used;
    }
    ++t.in_use;
    m.page_table_frames[table] = pfn;
    m.count(VM_nr_page_table);
    return table;
}

void table_page_free(machine &m, u32 table) {
    arena_array &t = m.h->arrays[ARRAY_page_tables];
    std::memset(m.page_tables + u64{table} * PTRS_PER_TABLE, 0, PTRS_PER_TABLE * sizeof(u64));
    free_pages(m, m.page_table_frames[table], 0);
    m.page_table_frames[table] = t.free;
    t.free = table;
    --t.in_use;
    m.count(VM_nr_page_table, ~0ULL);
}

void free_pgtables(machine &m, u32 mm, u64 start, u64 end, u64 floor, u64 ceiling) {
    const u64 step = 1ULL << PGDIR_SHIFT;
    for (u64 at = align_down(start, step); at < end; at += step) {
        free_range(m, entry(m, m.mms[mm].pgd, at, PGDIR_SHIFT), PGDIR_SHIFT, at, start, end, floor, ceiling);
    }
}

void free_pte_table(machine &m, u64 *pmd) {
    table_page_free(m, pte_pfn(*pmd));
    *pmd = 0;
}

} // namespace thp

#include "rmap.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "mmap.hpp"
#include "page_alloc.hpp"
#include <algorithm>

namespace thp {

namespace {

void interval_tree_insert(machine &m, u32 vma) {
    vm_area_struct &v = m.vmas[vma];
    u32 &head = m.anon_vmas[m.anon_vmas[v.anon_vma].root].head;
    v.anon_prev = NIL;
    v.anon_next = head;
    while (v.anon_next != NIL && m.vmas[v.anon_next].vm_pgoff <= v.vm_pgoff) {
        v.anon_prev = v.anon_next;
        v.anon_next = m.vmas[v.anon_next].anon_next;
    }
    (v.anon_prev != NIL ? m.vmas[v.anon_prev].anon_next : head) = vma;
    if (v.anon_next != NIL) m.vmas[v.anon_next].anon_prev = vma;
}

void interval_tree_remove(machine &m, u32 vma) {
    const vm_area_struct &v = m.vmas[vma];
    u32 &head = m.anon_vmas[m.anon_vmas[v.anon_vma].root].head;
    (v.anon_prev != NIL ? m.vmas[v.anon_prev].anon_next : head) = v.anon_next;
    if (v.anon_next != NIL) m.vmas[v.anon_next].anon_prev = v.anon_prev;
}

// precise_sharing: asks the page tables instead of two slots.
bool folio_mapped_shared(machine &m, u32 head) {
    u32 owner = NIL;
    bool shared = false;
    for (u32 i = 0; i < folio_nr_pages(m, head) && !shared; ++i) {
        rmap_walk_page(m, head, i, [&](u32 mm, u32, u64 address) {
            const u64 entry = follow_entry(m, mm, address);
            if (!pte_present(entry) || pte_pfn(entry) != (entry & PTE_PSE ? head : head + i)) return;
            shared = shared || (owner != NIL && owner != mm);
            owner = mm;
        });
    }
    return shared;
}

// Two owners are tracked; a third goes unseen until it is the only one (R27).
void add_owner(page &folio, u32 mm, u32 n) {
    const u16 id = static_cast<u16>(mm + 1);
    for (u32 slot : {0U, 1U}) {
        if (folio.mm_id[slot] == id) {
            folio.mm_id_mapcount[slot] = static_cast<u16>(folio.mm_id_mapcount[slot] + n);
            return;
        }
    }
    for (u32 slot : {0U, 1U}) {
        if (folio.mm_id[slot] != 0) continue;
        folio.mm_id[slot] = id;
        folio.mm_id_mapcount[slot] = static_cast<u16>(n);
        return;
    }
}

void remove_owner(page &folio, u32 mm, u32 n) {
    for (u32 slot : {0U, 1U}) {
        if (folio.mm_id[slot] != mm + 1) continue;
        folio.mm_id_mapcount[slot] = static_cast<u16>(folio.mm_id_mapcount[slot] - n);
        if (folio.mm_id_mapcount[slot] == 0) folio.mm_id[slot] = 0;
    }
}

// After `newly` pages lost their last mapping.
void note_unmapped(machine &m, u32 head, u32 newly) {
    page &folio = m.pages[head];
    if (newly == 0 || folio.nr_pages_mapped == 0) return; // gone as a whole: about to be freed
    deferred_split_folio(m, head, true);
}

} // namespace

void anon_vma_link(machine &m, u32 vma, u32 anon) {
    m.vmas[vma].anon_vma = anon;
    interval_tree_insert(m, vma);
    ++m.anon_vmas[anon].users;
}

void anon_vma_unlink(machine &m, u32 vma) {
    vm_area_struct &v = m.vmas[vma];
    const u32 anon = v.anon_vma;
    if (anon == NIL) return;
    const u32 root = m.anon_vmas[anon].root;
    interval_tree_remove(m, vma);
    v.anon_vma = NIL;
    arena_array &t = m.h->arrays[ARRAY_anon_vmas];
    if (--m.anon_vmas[anon].users == 0 && anon != root) record_free(t, m.anon_vmas, anon);
    if (m.anon_vmas[root].head == NIL) record_free(t, m.anon_vmas, root);
}

void anon_vma_update(machine &m, u32 vma) {
    if (m.vmas[vma].anon_vma == NIL) return;
    interval_tree_remove(m, vma);
    interval_tree_insert(m, vma);
}

bool anon_vma_fork(machine &m, u32 vma, u32 parent) {
    const u32 anon = record_alloc(m.h->arrays[ARRAY_anon_vmas], m.anon_vmas);
    if (anon == NIL) return false;
    m.anon_vmas[anon].head = NIL;
    m.anon_vmas[anon].root = m.anon_vmas[parent].root;
    anon_vma_link(m, vma, anon);
    return true;
}

bool anon_vma_prepare(machine &m, u32 vma) {
    if (m.vmas[vma].anon_vma != NIL) return true;
    u32 anon = find_mergeable_anon_vma(m, vma);
    if (anon == NIL) {
        anon = record_alloc(m.h->arrays[ARRAY_anon_vmas], m.anon_vmas);
        if (anon == NIL) return false;
        m.anon_vmas[anon].head = NIL;
        m.anon_vmas[anon].root = anon;
    }
    anon_vma_link(m, vma, anon);
    return true;
}

void folio_add_new_anon_rmap(machine &m, u32 head, u32 vma, u64 address, bool pmd) {
    page &folio = m.pages[head];
    const vm_area_struct &v = m.vmas[vma];
    const u32 nr = 1U << folio.order;
    folio.flags |= PG_anon;
    folio.anon_vma = m.anon_vmas[v.anon_vma].root;
    folio.index = v.vm_pgoff + ((address - v.vm_start) >> PAGE_SHIFT);
    if (pmd) {
        folio.entire_mapcount = 1;
        folio.large_mapcount = 1;
        folio.nr_pages_mapped = ENTIRELY_MAPPED;
        for (u32 i = 0; i < (folio.order == PMD_ORDER ? 1 : nr); ++i)
            m.pages[head + i].flags |= PG_anon_exclusive;
        add_owner(folio, v.vm_mm, 1);
    } else {
        folio.tails = folio.order == PMD_ORDER;
        for (u32 i = 0; i < nr; ++i) {
            m.pages[head + i].mapcount = 1;
            m.pages[head + i].flags |= PG_anon_exclusive;
        }
        if (folio.order) {
            folio.large_mapcount = static_cast<i32>(nr);
            folio.nr_pages_mapped = static_cast<u16>(nr);
            add_owner(folio, v.vm_mm, nr);
        }
    }
    if (folio.order) m.count(MTHP_nr_anon, folio.order);
    m.mms[v.vm_mm].rss += nr;
}

void folio_add_anon_rmap_ptes(machine &m, u32 pfn, u32 nr, u32 mm) {
    const u32 head = page_head(m, pfn);
    page &folio = m.pages[head];
    folio.tails = folio.order == PMD_ORDER;
    for (u32 i = 0; i < nr; ++i) {
        if (m.pages[pfn + i].mapcount++ == 0 && folio.order) ++folio.nr_pages_mapped;
    }
    if (folio.order) {
        folio.large_mapcount += static_cast<i32>(nr);
        add_owner(folio, mm, nr);
    }
}

void folio_add_anon_rmap_pmd(machine &m, u32 head, u32 mm) {
    page &folio = m.pages[head];
    ++folio.entire_mapcount;
    ++folio.large_mapcount;
    add_owner(folio, mm, 1);
}

bool folio_maybe_mapped_shared(machine &m, u32 head) {
    const page &folio = m.pages[head];
    if (folio.order == 0) return folio.mapcount > 1;
    if (folio.large_mapcount <= 1) return false;
    if (feature(m, FEATURE_precise_sharing)) return folio_mapped_shared(m, head);
    return folio.mm_id_mapcount[0] != folio.large_mapcount && folio.mm_id_mapcount[1] != folio.large_mapcount;
}

void folio_remove_rmap_ptes(machine &m, u32 pfn, u32 nr, u32 mm) {
    const u32 head = page_head(m, pfn);
    page &folio = m.pages[head];
    if (folio.order == 0) {
        --folio.mapcount;
        return;
    }
    folio.large_mapcount -= static_cast<i32>(nr);
    remove_owner(folio, mm, nr);
    u32 newly = 0;
    for (u32 i = 0; i < nr; ++i) {
        if (--m.pages[pfn + i].mapcount != 0) continue;
        --folio.nr_pages_mapped;
        newly += folio.nr_pages_mapped < ENTIRELY_MAPPED;
    }
    mod_memory(m, VM_nr_unmapped, newly);
    note_unmapped(m, head, newly);
}

void folio_remove_rmap_pmd(machine &m, u32 head, u32 mm) {
    page &folio = m.pages[head];
    --folio.large_mapcount;
    remove_owner(folio, mm, 1);
    if (--folio.entire_mapcount != 0) return;
    if (folio.flags & PG_double_map) m.count(VM_cont_pte_double_map_count, ~0ULL);
    folio.flags &= ~u32{PG_double_map};
    folio.nr_pages_mapped = static_cast<u16>(folio.nr_pages_mapped - ENTIRELY_MAPPED);
    const u32 newly = folio_nr_pages(m, head) - folio.nr_pages_mapped;
    mod_memory(m, VM_nr_unmapped, newly);
    note_unmapped(m, head, newly);
}

u32 folio_referenced(machine &m, u32 head) {
    u32 vmas = 0;
    rmap_walk(m, head, [&](u32 v, u32 first, u32 nr) {
        const vm_area_struct &vma = m.vmas[v];
        bool referenced = false;
        u32 locked = 0;
        for (u32 i = first; i < first + nr; ++i) {
            const u64 address = folio_address(m, head, i, v);
            u64 *entry = pmd_offset(m, vma.vm_mm, address);
            const bool huge = entry && pmd_trans_huge(*entry);
            if (entry && !huge) entry = pmd_is_table(*entry) ? pte_offset(m, *entry, address) : nullptr;
            m.spend(TIME_swapping, m.cost().scan_pte);
            if (!entry || !pte_present(*entry) || pte_pfn(*entry) != (huge ? head : head + i)) continue;
            if (vma.vm_flags & VM_LOCKED) {
                locked += huge ? folio_nr_pages(m, head) : 1;
                if (huge) break;
                continue;
            }
            if (!huge) {
                referenced = ptep_test_and_clear_young(m, entry) || referenced;
                continue;
            }
            referenced = referenced || (*entry & PTE_ACCESSED);
            *entry &= ~u64{PTE_ACCESSED};
            break;
        }
        vmas += referenced;
        if (locked == folio_nr_pages(m, head)) {
            folio_set_mlocked(m, head, true);
            return false;
        }
        return true;
    });
    return vmas;
}

bool folio_any_pte_dirty(machine &m, u32 head) {
    bool dirty = false;
    for (u32 i = 0; i < folio_nr_pages(m, head) && !dirty; ++i) {
        rmap_walk_page(m, head, i, [&](u32 mm, u32, u64 address) {
            const u64 entry = follow_entry(m, mm, address);
            const u32 pfn = entry & PTE_PSE ? head : head + i;
            dirty = dirty || (pte_present(entry) && pte_pfn(entry) == pfn && (entry & PTE_DIRTY));
        });
    }
    return dirty;
}

u32 folio_owner(const machine &m, u32 head) {
    u32 owner = NIL;
    rmap_walk_page(m, head, 0, [&](u32, u32 vma, u64) {
        if (owner == NIL) owner = vma;
    });
    return owner;
}

} // namespace thp

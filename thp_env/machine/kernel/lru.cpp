#include "lru.hpp"
#include "memcontrol.hpp"
#include "page_alloc.hpp"
#include "workingset.hpp"
#include <algorithm>

namespace thp {

namespace {

lru_list &list_of(machine &m, u32 head) {
    return m.memcgs[folio_memcg(m, head)].lru[folio_lru_list(m, head)];
}

void note_cost(lruvec_cost &c, bool file, u64 cost, u64 size) {
    (file ? c.file_cost : c.anon_cost) += cost;
    if (c.file_cost + c.anon_cost <= size / 4) return;
    c.file_cost /= 2;
    c.anon_cost /= 2;
}

void link(machine &m, u32 head, u32 prev, u32 next) {
    lru_list &list = list_of(m, head);
    m.pages[head].prev = prev;
    m.pages[head].next = next;
    (prev != NIL ? m.pages[prev].next : list.head) = head;
    (next != NIL ? m.pages[next].prev : list.tail) = head;
    list.nr_pages += folio_nr_pages(m, head);
    m.pages[head].flags |= PG_lru;
}

void link_first(machine &m, u32 head) { link(m, head, NIL, list_of(m, head).head); }

// Whether the folio waits in a batch instead; small ones may, when batches are on (x04).
bool batch_add(machine &m, folio_batch &batch, u32 head) {
    if (!m.h->lru_batches) return false;
    if (std::find(batch.folios, batch.folios + batch.nr, head) != batch.folios + batch.nr) return true;
    if (batch.nr == FOLIO_BATCH_SIZE || m.pages[head].order) lru_add_drain(m);
    if (m.pages[head].order) return false;
    batch.folios[batch.nr++] = head;
    return true;
}

void batch_del(folio_batch &batch, u32 head) {
    u32 *end = std::remove(batch.folios, batch.folios + batch.nr, head);
    batch.nr = static_cast<u32>(end - batch.folios);
}

void lazyfree(machine &m, u32 head) {
    page &folio = m.pages[head];
    if (!(folio.flags & PG_swapbacked) || (folio.flags & (PG_swapcache | PG_mlocked))) return;
    lru_del(m, head);
    folio.flags &= ~(PG_swapbacked | PG_active | PG_referenced);
    link_first(m, head);
    m.count(VM_pglazyfree, folio_nr_pages(m, head));
}

} // namespace

lru_index folio_lru_list(const machine &m, u32 head) {
    const u32 flags = m.pages[head].flags;
    if (flags & PG_mlocked) return LRU_UNEVICTABLE;
    if (!(flags & PG_swapbacked)) return flags & PG_active ? LRU_ACTIVE_FILE : LRU_INACTIVE_FILE;
    if (on_cont_pte_lru(m, head)) return flags & PG_active ? LRU_ACTIVE_CONT : LRU_INACTIVE_CONT;
    return flags & PG_active ? LRU_ACTIVE_ANON : LRU_INACTIVE_ANON;
}

void lru_add(machine &m, u32 head) {
    if (m.pages[head].flags & PG_lru) return; // it was in the swap cache
    if (!batch_add(m, m.h->lru_adds, head)) link_first(m, head);
}

void folio_add_lru_vma(machine &m, u32 head, u32 vma) {
    lru_add(m, head);
    if (m.vmas[vma].vm_flags & VM_LOCKED) folio_set_mlocked(m, head, true);
}

void lru_del(machine &m, u32 head) {
    page &folio = m.pages[head];
    if (m.h->lru_batches) {
        batch_del(m.h->lru_adds, head);
        batch_del(m.h->lru_lazyfrees, head);
    }
    if (!(folio.flags & PG_lru)) return;
    lru_list &list = list_of(m, head);
    (folio.prev != NIL ? m.pages[folio.prev].next : list.head) = folio.next;
    (folio.next != NIL ? m.pages[folio.next].prev : list.tail) = folio.prev;
    list.nr_pages -= folio_nr_pages(m, head);
    folio.flags &= ~u32{PG_lru};
}

void folio_activate(machine &m, u32 head) {
    lru_del(m, head);
    m.pages[head].flags |= PG_active;
    link_first(m, head);
    m.count(VM_pgactivate, folio_nr_pages(m, head));
    workingset_age_nonresident(m, folio_memcg(m, head), folio_nr_pages(m, head));
}

void folio_mark_accessed(machine &m, u32 head) {
    page &folio = m.pages[head];
    if (!(folio.flags & PG_referenced)) {
        folio.flags |= PG_referenced;
    } else if (!(folio.flags & (PG_mlocked | PG_active))) {
        folio_activate(m, head);
        folio.flags &= ~u32{PG_referenced};
    }
}

void folio_deactivate(machine &m, u32 head) {
    page &folio = m.pages[head];
    if (!(folio.flags & PG_active)) return;
    lru_del(m, head);
    folio.flags &= ~u32{PG_active};
    link_first(m, head);
    m.count(VM_pgdeactivate, folio_nr_pages(m, head));
}

void folio_putback_lru(machine &m, u32 head) {
    lru_del(m, head);
    link_first(m, head);
}

void folio_mark_lazyfree(machine &m, u32 head) {
    if (!batch_add(m, m.h->lru_lazyfrees, head)) lazyfree(m, head);
}

void folio_set_mlocked(machine &m, u32 head, bool on) {
    page &folio = m.pages[head];
    if (!(folio.flags & PG_mlocked) == !on) return;
    lru_add_drain(m);
    lru_del(m, head);
    folio.flags = on ? folio.flags | PG_mlocked : folio.flags & ~u32{PG_mlocked};
    folio.flags &= ~u32{PG_active};
    link_first(m, head);
}

void lru_add_split_folio(machine &m, u32 head, u32 tail) {
    if (!(m.pages[head].flags & PG_lru)) link_first(m, head);
    m.pages[tail].flags |= m.pages[head].flags & (PG_active | PG_referenced | PG_workingset);
    link(m, tail, m.pages[head].prev, head);
}

void lru_shrink_folio(machine &m, u32 head, u32 nr) {
    if (!(m.pages[head].flags & PG_lru)) return;
    if (on_cont_pte_lru(m, head)) return lru_del(m, head); // its pages go to the lists of small ones
    list_of(m, head).nr_pages -= nr;
}

void lru_note_cost(machine &m, u32 memcg, bool file, u64 nr_io, u64 nr_rotated) {
    const u64 cost = nr_io * SWAP_CLUSTER_MAX + nr_rotated;
    if (cost == 0) return;
    const auto size = [&m](u32 group) {
        u64 pages = 0;
        for (u32 list = 0; list < NR_LRU_LISTS; ++list)
            pages += list == LRU_UNEVICTABLE ? 0 : lruvec_page_state(m, group, static_cast<lru_index>(list));
        return pages;
    };
    note_cost(m.memcgs[memcg].cost, file, cost, size(memcg));
    if (several_memcgs(m)) note_cost(m.h->root_cost, file, cost, size(NIL)); // parent_lruvec
}

void lru_add_drain(machine &m) {
    const folio_batch adds = m.h->lru_adds, lazyfrees = m.h->lru_lazyfrees;
    m.h->lru_adds.nr = m.h->lru_lazyfrees.nr = 0;
    for (u32 i = 0; i < adds.nr; ++i) link_first(m, adds.folios[i]);
    for (u32 i = 0; i < lazyfrees.nr; ++i) lazyfree(m, lazyfrees.folios[i]);
}

} // namespace thp

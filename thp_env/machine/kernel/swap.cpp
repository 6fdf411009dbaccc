#include "swap.hpp"
#include "memcontrol.hpp"
#include "memory.hpp"
#include "mmap.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include "zsmalloc.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

// Clusters are on one list each: free ones, per order those in which slots became free since they were last
// scanned (non-full), and per order those that were scanned and are not full (fragmented).
u32 &list_head(machine &m, u32 list) { return m.h->cluster_lists[list]; }

constexpr u32 LIST_NONE = 0, LIST_FREE = 1, LIST_NONFULL = 2, LIST_FRAG = LIST_NONFULL + PMD_ORDER + 1;
static_assert(LIST_FRAG + PMD_ORDER < NR_CLUSTER_LISTS);

u32 &list_tail(machine &m, u32 list) { return m.h->cluster_tails[list]; }

void list_del(machine &m, u32 c) {
    swap_cluster &cluster = m.clusters[c];
    if (cluster.list == LIST_NONE) return;
    (cluster.prev != NIL ? m.clusters[cluster.prev].next : list_head(m, cluster.list)) = cluster.next;
    (cluster.next != NIL ? m.clusters[cluster.next].prev : list_tail(m, cluster.list)) = cluster.prev;
    cluster.list = LIST_NONE;
    cluster.next = cluster.prev = NIL;
}

void list_add_tail(machine &m, u32 c, u32 list) {
    swap_cluster &cluster = m.clusters[c];
    if (cluster.list == list) return;
    list_del(m, c);
    cluster.list = static_cast<u8>(list);
    cluster.prev = list_tail(m, list);
    cluster.next = NIL;
    (cluster.prev != NIL ? m.clusters[cluster.prev].next : list_head(m, list)) = c;
    list_tail(m, list) = c;
}

bool slot_free(const machine &m, u32 slot) {
    return slot < m.h->swap_slots && slot != 0 && m.swap[slot].count == 0 && !m.swap[slot].cached &&
           !m.swap[slot].taken;
}

bool range_free(const machine &m, u32 slot, u32 nr) {
    for (u32 i = 0; i < nr; ++i) {
        if (!slot_free(m, slot + i)) return false;
    }
    return true;
}

// relocate_cluster: where a cluster goes that was scanned.
void relocate(machine &m, u32 c) {
    const swap_cluster &cluster = m.clusters[c];
    if (cluster.count == 0) {
        list_add_tail(m, c, LIST_FREE);
    } else if (cluster.count < SWAPFILE_CLUSTER) {
        list_add_tail(m, c, LIST_FRAG + cluster.order);
    } else {
        list_del(m, c);
    }
}

// alloc_swap_scan_cluster: the first free aligned range from `from` to the end of its cluster.
u32 scan_cluster(machine &m, u32 from, u32 order) {
    const u32 c = from / SWAPFILE_CLUSTER, nr = 1U << order;
    const u32 end = std::min((c + 1) * SWAPFILE_CLUSTER, m.h->swap_slots);
    swap_cluster &cluster = m.clusters[c];
    u32 slot = NIL;
    m.host.work(16);
    m.h->swap_next[order] = NIL;
    if (cluster.count + nr <= SWAPFILE_CLUSTER) {
        for (slot = static_cast<u32>(align_up(from, nr)); slot + nr <= end; slot += nr) {
            if (range_free(m, slot, nr)) break;
        }
        if (slot + nr > end) slot = NIL;
    }
    if (slot != NIL) {
        u32 &used =
            m.h->arrays[ARRAY_swap].used; // as far as any was: a large device that is empty costs nothing
        used = std::max(used, slot + nr);
        for (u32 i = 0; i < nr; ++i) m.swap[slot + i].taken = 1;
        if (cluster.count == 0) cluster.order = static_cast<u8>(order);
        cluster.count = static_cast<u16>(cluster.count + nr);
        m.h->swap_used += nr;
        if (cluster.count < SWAPFILE_CLUSTER && slot + 2 * nr <= end) m.h->swap_next[order] = slot + nr;
    }
    relocate(m, c);
    return slot;
}

// alloc_swap_scan_list
u32 scan_list(machine &m, u32 list, u32 order, bool all) {
    u32 slot = NIL;
    while (slot == NIL && list_head(m, list) != NIL) {
        const u32 c = list_head(m, list);
        list_del(m, c);
        slot = scan_cluster(m, c * SWAPFILE_CLUSTER, order);
        if (!all) break;
    }
    return slot;
}

} // namespace

void swap_put(machine &m, u32 slot) {
    const u32 c = slot / SWAPFILE_CLUSTER;
    swap_cluster &cluster = m.clusters[c];
    zram_free_page(m, slot); // swap_slot_free_notify
    mem_cgroup_uncharge_swap(m, slot);
    m.swap[slot] = swap_slot{};
    --cluster.count;
    --m.h->swap_used;
    list_add_tail(m, c, cluster.count ? LIST_NONFULL + cluster.order : LIST_FREE);
}

void put_swap_folio(machine &m, u32 slot, u32 nr) {
    for (u32 i = slot; i < slot + nr; ++i) {
        m.swap[i].taken = 0;
        swap_put(m, i);
    }
}

int swapon(machine &m, u64 bytes) {
    const u64 slots = bytes >> PAGE_SHIFT;
    if (m.h->swap_slots) return -EBUSY;
    if (slots > m.h->arrays[ARRAY_swap].capacity) return -ENOMEM;
    m.h->swap_slots = static_cast<u32>(slots);
    const u32 clusters = (m.h->swap_slots + SWAPFILE_CLUSTER - 1) / SWAPFILE_CLUSTER;
    m.h->arrays[ARRAY_clusters].used = clusters;
    // Slot 0 holds the header; what lies beyond the end of the last cluster counts as taken, too.
    const u32 beyond = clusters * SWAPFILE_CLUSTER - m.h->swap_slots;
    for (u32 c = 0; c < clusters; ++c) {
        m.clusters[c] = {0, 0, LIST_NONE, NIL, NIL};
        m.clusters[c].count = static_cast<u16>((c == 0) + (c + 1 == clusters ? beyond : 0));
        list_add_tail(m, c, m.clusters[c].count ? LIST_NONFULL : LIST_FREE);
    }
    return 0;
}

namespace {

// unuse_pte: page by page through the swap cache, whatever order was swapped out (R43).
bool unuse_pte(machine &m, u32 vma, u64 address, u64 *pte) {
    const u32 slot = pte_swp_offset(*pte), cached = swap_cache_get(m, slot);
    const u32 pfn = cached != NIL ? cached : read_swap_cache(m, slot);
    if (pfn == NIL) return false;
    --m.swap[slot].count;
    map_cached_page(m, vma, address, pte, pfn, *pte & PTE_SWP_EXCLUSIVE);
    folio_free_swap(m, pfn);
    return true;
}

bool unuse_vma(machine &m, u32 vma) {
    const vm_area_struct v = m.vmas[vma];
    return walk_pmd_range(m, v.vm_mm, v.vm_start, v.vm_end, [&](u64 at, u64 next, u64 *pmd) {
        if (!pmd_is_table(*pmd)) return true;
        u64 *pte = pte_offset(m, *pmd, at);
        for (; at < next; at += PAGE_SIZE, ++pte) {
            if (is_swap_pte(*pte) && !unuse_pte(m, vma, at, pte)) return false;
        }
        return true;
    });
}

} // namespace

int swapoff(machine &m) {
    if (m.h->swap_slots == 0) return -EINVAL;
    const u32 slots = m.h->swap_slots;
    m.h->swap_slots = 0; // SWP_WRITEOK goes first: nothing more is swapped out
    for (u32 mm = 0; mm < m.h->arrays[ARRAY_mms].used; ++mm) {
        if (!m.mms[mm].in_use) continue;
        for (u32 v = find_vma(m, mm, 0); v != NIL; v = vma_next(m, v)) {
            if (unuse_vma(m, v)) continue;
            m.h->swap_slots = slots;
            return -ENOMEM;
        }
    }
    for (u32 c = 0; c * SWAPFILE_CLUSTER < slots; ++c) {
        if (m.clusters[c].count == 0) continue; // its slots are clean
        const u32 first = c * SWAPFILE_CLUSTER, end = std::min(first + SWAPFILE_CLUSTER, slots);
        for (u32 slot = first; slot < end; ++slot) { // read ahead, but nobody wants it any more
            if (m.swap[slot].cached) delete_from_swap_cache(m, swap_cache_get(m, slot));
            zram_free_page(m, slot);
        }
        std::fill_n(m.swap + first, end - first, swap_slot{});
    }
    for (u32 g = 0; g < nr_memcgs(m); ++g) m.memcgs[g].swap = 0;
    std::fill_n(m.clusters, m.h->arrays[ARRAY_clusters].used, swap_cluster{});
    for (u32 &next : m.h->swap_next) next = NIL;
    for (u32 &list : m.h->cluster_lists) list = NIL;
    for (u32 &list : m.h->cluster_tails) list = NIL;
    m.h->arrays[ARRAY_swap].used = m.h->arrays[ARRAY_clusters].used = 0;
    return 0;
}

u32 swap_alloc(machine &m, u32 order) {
    const u32 nr = 1U << order;
    if (m.h->swap_used + nr + 1 > m.h->swap_slots) return NIL;
    if (const u32 next = m.h->swap_next[order]; next != NIL) { // swap_alloc_fast
        const swap_cluster &cluster = m.clusters[next / SWAPFILE_CLUSTER];
        const bool usable = cluster.list != LIST_NONE && cluster.list != LIST_FREE; // a free one has no table
        const u32 slot =
            usable && (order == 0 || cluster.order == order) ? scan_cluster(m, next, order) : NIL;
        if (slot != NIL) return slot;
    }
    u32 slot = order < PMD_ORDER ? scan_list(m, LIST_NONFULL + order, order, true) : NIL;
    if (slot == NIL) slot = scan_list(m, LIST_FREE, order, false);
    if (slot == NIL && order < PMD_ORDER) slot = scan_list(m, LIST_FRAG + order, order, false);
    // Order 0 takes what is left in the clusters of larger ones.
    for (u32 other = 1; order == 0 && slot == NIL && other <= PMD_ORDER; ++other) {
        slot = scan_list(m, LIST_FRAG + other, 0, true);
        if (slot == NIL) slot = scan_list(m, LIST_NONFULL + other, 0, true);
    }
    return slot;
}

void swap_duplicate(machine &m, u32 slot, u32 nr) {
    for (u32 i = 0; i < nr; ++i) ++m.swap[slot + i].count;
}

void swap_free(machine &m, u32 slot, u32 nr) {
    for (u32 i = slot; i < slot + nr; ++i) {
        if (--m.swap[i].count > 0) continue;
        if (!m.swap[i].cached) {
            swap_put(m, i);
        } else if (m.pages[m.swap[i].cached - 1].refcount == 1 ||
                   vm_swap_full(m)) { // only the cache holds it
            folio_free_swap(m, m.swap[i].cached - 1);
        }
    }
}

u32 swap_pte_batch(const u64 *pte, u32 max) {
    u32 n = 1;
    while (n < max && is_swap_pte(pte[n]) && pte_swp_offset(pte[n]) == pte_swp_offset(*pte) + n) ++n;
    return n;
}

void swap_read_page(machine &m, u32 slot, u32 pfn) {
    const u8 content = m.swap[slot].content;
    m.contents[pfn] = static_cast<u8>((m.contents[pfn] & CONTENT_TOUCHED) | content);
    const clock_table &c = m.cost();
    m.spend(TIME_swapping, !content                       ? c.zero_page
                           : zram_incompressible(content) ? c.swap_in_incompressible
                                                          : c.swap_in_page + c.swap_in_percent * content);
    m.count(m.swap[slot].zeromap ? VM_swpin_zero : VM_pswpin);
}

namespace {

// zram_submit_bio: all pages or, when there is no memory for one, none.
bool zram_write(machine &m, u32 slot, const u8 *content, u32 nr) {
    for (u32 i = 0; i < nr; ++i) {
        if (zram_write_page(m, slot + i, content[i] & CONTENT_MASK)) continue;
        while (i-- > 0) zram_free_page(m, slot + i);
        return false;
    }
    return true;
}

u64 write_cost(const machine &m, const u8 *content, u32 nr) {
    const clock_table &c = m.cost();
    u64 ps = 0;
    for (u32 i = 0; i < nr; ++i)
        ps += zram_incompressible(content[i])
                  ? c.swap_out_incompressible
                  : c.swap_out_page + c.swap_out_percent * (content[i] & CONTENT_MASK);
    return ps;
}

} // namespace

bool swap_write_folio(machine &m, u32 head, u32 slot) {
    const u32 order = m.pages[head].order, nr = 1U << order;
    const u8 *content = m.contents + head;
    const bool zero = std::all_of(content, content + nr, [](u8 c) { return (c & CONTENT_MASK) == 0; });
    if (!zero && !zram_write(m, slot, content, nr)) return false; // R47
    for (u32 i = 0; i < nr; ++i) {
        m.swap[slot + i].content = content[i] & CONTENT_MASK;
        m.swap[slot + i].zeromap = zero;
    }
    if (zero) { // R37
        m.count(VM_swpout_zero, nr);
        return true;
    }
    const attribute_time_to scope(m, m.h->config.time_by_vma ? folio_owner(m, head) : NIL);
    m.spend(TIME_swapping, write_cost(m, content, nr));
    m.count(VM_pswpout, nr);
    if (order) m.count(MTHP_swpout, order);
    if (order == PMD_ORDER) m.count(VM_thp_swpout);
    return true;
}

} // namespace thp

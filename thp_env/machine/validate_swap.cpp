// The slots and clusters of swap.
#include "kernel/swap.hpp"
#include "validate.hpp"
#include <algorithm>

namespace thp {

namespace {

struct swap_scan : report {
    machine &m;
    const u32 slots, used, clusters; // used: slots that ever were

    explicit swap_scan(machine &state)
        : m(state), slots(state.h->swap_slots), used(state.h->arrays[ARRAY_swap].used),
          clusters(state.h->arrays[ARRAY_clusters].used) {}

    void each_slot() {
        for (u32 i = 0; i < used && broken.empty(); ++i) {
            const swap_slot &s = m.swap[i];
            const u32 frames = m.h->arrays[ARRAY_pages].used;
            expect(s.cached <= frames && s.content <= 100 && s.stored <= 100 && !s.taken, "swap slot", i);
            if (!s.cached || !broken.empty()) continue;
            const page &cached = m.pages[s.cached - 1];
            expect((cached.flags & PG_swapcache) && cached.swap == i, "swap cache without its page", i);
        }
        for (const u32 next : m.h->swap_next)
            expect(next < slots || next == NIL, "next slot of an order", next);
    }

    // Clusters on their lists, and how many slots of each are taken: the header and what lies beyond the end,
    // too.
    void each_cluster() {
        u32 listed = 0, on_lists = 0;
        for (u32 list = 1; list < NR_CLUSTER_LISTS && broken.empty(); ++list) {
            u32 before = NIL;
            for (u32 c = m.h->cluster_lists[list]; c != NIL && broken.empty(); c = m.clusters[c].next) {
                const bool matches =
                    c < clusters && m.clusters[c].list == list && m.clusters[c].prev == before;
                expect(matches && listed < clusters, "list of clusters broken", list);
                if (!broken.empty()) return;
                before = c;
                ++listed;
            }
            expect(m.h->cluster_tails[list] == before, "end of a list of clusters", list);
        }
        for (u32 c = 0; c < clusters && broken.empty(); ++c) {
            const swap_cluster &cluster = m.clusters[c];
            const u32 first = c * SWAPFILE_CLUSTER, end = first + SWAPFILE_CLUSTER;
            u32 slots_in_use = (c == 0) + (end > slots ? end - slots : 0);
            for (u32 i = std::max(first, 1U); i < std::min(end, used); ++i)
                slots_in_use += m.swap[i].count > 0 || m.swap[i].cached;
            expect(cluster.order <= PMD_ORDER && cluster.list < NR_CLUSTER_LISTS, "malformed cluster", c);
            expect_equal(cluster.count, slots_in_use, "slots of a cluster");
            on_lists += cluster.list != 0;
        }
        expect_equal(listed, on_lists, "clusters on lists");
    }
};

} // namespace

std::string swap_broken(machine &m) {
    swap_scan s(m);
    s.each_slot();
    s.each_cluster();
    return s.broken;
}

} // namespace thp

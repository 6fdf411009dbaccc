#include "state.hpp"
#include "hardware/tlb.hpp"
#include "kernel/cont_pte_hugepage.hpp"
#include "kernel/memcontrol.hpp"
#include "kernel/page_alloc.hpp"
#include "kernel/psi.hpp"
#include <algorithm>
#include <bit>
#include <cstring>
#include <sys/mman.h>

namespace thp {

namespace {

constexpr u64 MAGIC = 0x3430766e65706874ULL; // "thpenv04"

// Frames' records of that many bytes (a machine of 1 GiB) lie in huge pages of the host; in less, clearing a
// whole one takes longer than the faults that it saves.
constexpr u64 HOST_HUGE_PAGES_FROM = 16ULL << 20;

// So that no product of a cost and a number of pages wraps.
constexpr u64 MAX_COST = 10'000'000'000, MAX_CYCLE = 1'000'000'000; // ps

constexpr u32 record_size[NR_ARRAYS] = {
#define X(name, record, capacity) sizeof(record),
    THP_ARENA(X, X)
#undef X
};

constexpr u32 LOOK = 1U << 12;    // units of work that make a look at the host
constexpr u64 PIECE = 1ULL << 20; // bytes between two looks

// FNV-1a over words: finds damage, not malice.
u64 checksum(host_watch &host, const std::byte *data, u64 size) {
    u64 sum = 0xcbf29ce484222325ULL;
    for (u64 at = 0; at < size; at += sizeof(u64)) {
        if (at % PIECE == 0) host.work(LOOK);
        u64 word = 0;
        std::memcpy(&word, data + at, std::min<u64>(sizeof word, size - at));
        sum = (sum ^ word) * 0x100000001b3ULL;
        sum ^= sum >> 32;
    }
    return sum;
}

} // namespace

std::string check_config(const machine_config &c) {
    if (c.nr_pages < 4096 || c.nr_pages >= (1ULL << 31)) return "memory must lie between 16 MiB and 8 TiB";
    if (c.max_vmas < 8 || c.max_vmas > (1U << 24)) return "max_vmas must lie between 8 and 16777216";
    if (c.max_mms < 1 || c.max_mms > 4095) return "max_mms must lie between 1 and 4095";
    if (c.max_page_tables < 16 || c.max_page_tables > (1U << 26))
        return "max_page_tables must lie between 16 and 67108864";
    if (c.arch >= NR_ARCHS) return "no such architecture";
    if (c.features >> NR_FEATURES) return "no such feature";
    constexpr u32 folded = 1U << FEATURE_entire_mapcount | 1U << FEATURE_zero_64k;
    if ((c.features & folded) && c.arch == ARCH_X86_64)
        return "entire_mapcount and zero_64k need folded PTEs: arch=\"arm64\"";
    if (u64{c.pool_blocks} * 32 > c.nr_pages)
        return "the reserve of 64K folios must not exceed half the memory";
    if (c.nr_cpus < 1 || c.nr_cpus > 4096) return "nr_cpus must lie between 1 and 4096";
    if (c.min_free_kbytes != NIL && u64{c.min_free_kbytes} * 1024 > c.nr_pages * PAGE_SIZE / 2)
        return "min_free_kbytes must leave half of the memory";
#define X(name)                                                                                              \
    if (c.clock.name > MAX_COST) return "clock: " #name " takes more than 10 ms";
    THP_CLOCK(X)
#undef X
    if (c.clock.cycle > MAX_CYCLE) return "clock: a cycle takes more than 1 ms";
    return check_tlb(c.tlb);
}

void machine::attach() {
    h = reinterpret_cast<header *>(arena_.data());
    auto at = [this](arena_array_id id) { return arena_.data() + h->arrays[id].offset; };
    pages = {reinterpret_cast<page *>(at(ARRAY_pages)), reinterpret_cast<page *>(at(ARRAY_block_heads))};
#define X(name, record, capacity) name = reinterpret_cast<decltype(name)>(at(ARRAY_##name));
#define VIEW(name, record, capacity)
    THP_ARENA(X, VIEW)
#undef VIEW
#undef X
    auto *words = reinterpret_cast<u64 *>(at(ARRAY_tlb));
    translations[0] = {h->config.tlb, words};
    if (h->config.shadow_tlb) translations[1] = {h->config.tlb, words + tlb_words(h->config.tlb)};
}

void machine::make_arena(const header &from) {
    arena_ = host_memory(from.size);
    const arena_array &frames = from.arrays[ARRAY_pages];
    if (const u64 bytes = frames.capacity * sizeof(page); bytes >= HOST_HUGE_PAGES_FROM)
        arena_.use_huge_pages({frames.offset, frames.offset + bytes});
    std::memcpy(arena_.data(), &from, sizeof from);
    attach();
}

machine::machine(const machine_config &config, const program_size &program) {
    const auto frames = static_cast<u32>(config.nr_pages);
    const u32 capacities[NR_ARRAYS] = {
#define X(name, record, capacity) static_cast<u32>(capacity),
        THP_ARENA(X, X)
#undef X
    };
    u64 size = align_up(sizeof(header), 64);
    header first{};
    for (u32 i = 0; i < NR_ARRAYS; ++i) {
        first.arrays[i] = {size, capacities[i], 0, NIL, 0};
        size = align_up(size + u64{capacities[i]} * record_size[i], 64);
    }
    first.magic = MAGIC;
    first.size = size;
    first.config = config;
    make_arena(first);
    h->arrays[ARRAY_regions].used = program.regions;
    h->arrays[ARRAY_processes].used = h->arrays[ARRAY_oom_killed].used = program.processes;
    for (u32 i = 0; i < program.processes; ++i) processes[i] = NIL;
    h->use_zero_page = 1;
    h->shrink_underused = 1;
    h->max_ptes_none = HPAGE_PMD_NR - 1;
    h->max_ptes_shared = HPAGE_PMD_NR / 2;
    h->max_ptes_swap = HPAGE_PMD_NR / 8;
    h->khugepaged_defrag = 1;
    h->thp_enabled = THP_MADVISE;
    h->thp_mode[PMD_ORDER] = THP_INHERIT;
    h->current_mm = NIL;
    h->time_vma = NIL;
    for (zs_class &cls : h->zs) cls.head = NIL;
    h->thp_defrag = DEFRAG_MADVISE;
    psi_init(*this, h->psi_system);
    mem_cgroup_create(*this, 0);
    for (u32 &next : h->swap_next) next = NIL;
    for (u32 &list : h->cluster_lists) list = NIL;
    for (u32 &list : h->cluster_tails) list = NIL;
    tlb_init(*this);
    h->huge_zero_pfn = NIL;
    free_area_init(*this);
    setup_per_zone_wmarks(*this);
    h->zero_pfn = alloc_pages(*this, 0, MIGRATE_UNMOVABLE, GFP_NOWAIT);
    contents[h->zero_pfn] = CONTENT_TOUCHED;
    huge_page_pool_init(*this);
}

u64 machine::extent(u32 array) const { return u64{h->arrays[array].used} * record_size[array]; }

machine *machine::clone(u64 share_from) {
    std::vector<byte_range> parts = {{0, sizeof(header)}};
    for (u32 i = 0; i < NR_ARRAYS; ++i)
        parts.push_back({h->arrays[i].offset, h->arrays[i].offset + extent(i)});
    std::unique_ptr<machine> copy(new machine());
    copy->arena_ = arena_.copy(parts, share_from);
    copy->attach();
    attach();
    return copy.release();
}

bool machine::equals(const machine &other) const {
    if (std::memcmp(h, other.h, sizeof(header)) != 0) return false;
    for (u32 i = 0; i < NR_ARRAYS; ++i) {
        const u64 offset = h->arrays[i].offset;
        if (std::memcmp(arena_.data() + offset, other.arena_.data() + offset, extent(i)) != 0) return false;
    }
    return true;
}

u64 machine::used_bytes() const {
    u64 size = sizeof(header) + 2 * sizeof(u64); // and the checksums of the program and of all of it
    for (u32 i = 0; i < NR_ARRAYS; ++i) size += extent(i);
    return size;
}

std::vector<std::byte> machine::save(u64 program) const {
    std::vector<std::byte> out;
    out.reserve(used_bytes());
    const auto append = [&](const void *from, u64 bytes) {
        for (u64 at = 0; at < bytes; at += PIECE) {
            host.work(LOOK);
            const auto *first = static_cast<const std::byte *>(from) + at;
            out.insert(out.end(), first, first + std::min(PIECE, bytes - at));
        }
    };
    append(arena_.data(), sizeof(header));
    for (u32 i = 0; i < NR_ARRAYS; ++i) append(arena_.data() + h->arrays[i].offset, extent(i));
    append(&program, sizeof program);
    const u64 sum = checksum(host, out.data(), out.size());
    append(&sum, sizeof sum);
    return out;
}

std::string machine::load(const std::byte *data, u64 size, u64 program, machine **out) const {
    header stored;
    u64 sum = 0, of = 0;
    if (size < sizeof stored + sizeof of + sizeof sum) return "truncated: shorter than a machine's header";
    std::memcpy(&stored, data, sizeof stored);
    if (stored.magic != MAGIC) return "not a saved machine of this version";
    size -= sizeof sum;
    std::memcpy(&sum, data + size, sizeof sum);
    if (sum != checksum(host, data, size)) return "damaged or truncated: its checksum does not match";
    size -= sizeof of;
    std::memcpy(&of, data + size, sizeof of);
    if (std::memcmp(&stored.config, &h->config, sizeof stored.config) != 0)
        return "it has another configuration";
    if (of != program) return "it belongs to another program";
    if (stored.size != h->size) return "its arrays do not fit its configuration";
    u64 at = sizeof(header);
    for (u32 i = 0; i < NR_ARRAYS; ++i) {
        const arena_array &t = stored.arrays[i], &expected = h->arrays[i];
        if (t.offset != expected.offset || t.capacity != expected.capacity || t.used > t.capacity)
            return "its arrays do not fit its configuration";
        at += u64{t.used} * record_size[i];
    }
    if (at != size) return "truncated or too long";
    std::unique_ptr<machine> fresh(new machine());
    fresh->make_arena(stored);
    at = sizeof(header);
    for (u32 i = 0; i < NR_ARRAYS; ++i) {
        std::byte *const to = fresh->arena_.data() + stored.arrays[i].offset;
        const u64 bytes = fresh->extent(i);
        for (u64 done = 0; done < bytes; done += PIECE) {
            host.work(LOOK);
            std::memcpy(to + done, data + at + done, std::min(PIECE, bytes - done));
        }
        at += bytes;
    }
    *out = fresh.release();
    return {};
}

} // namespace thp

// A libFuzzer target over the interpreter: bytes become operations that Program.check would let through, a
// small machine runs them, and after each one the whole machine must be consistent; in the end no frame may
// be lost. A second machine runs them cut in pieces and without the fast path of accesses, its program
// written while it runs, and must be equal. Now and then a saved state is damaged: it is refused, or runs
// without harm and ends.
#include "batch.hpp"
#include "hardware/tlb.hpp"
#include "kernel/page_alloc.hpp"
#include "patterns.hpp"
#include "run.hpp"
#include "validate.hpp"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace {

using namespace thp;

constexpr u32 NR_REGIONS = 6, NR_PROCESSES = 4, MAX_OPS = 48, DAMAGED_STATES = 32;
constexpr u64 REGION_PAGES = 1536; // three 2M blocks
#define X(name, text, number) MADV_##name,
constexpr u64 advices[] = {THP_ADVICE(X)};
#undef X
// Edges of blocks are where rules differ.
constexpr u64 edges[] = {0, 1, 4, 15, 16, 17, 64, 255, 256, 511, 512, 513, 768, 1024, 1535};

class decoder {
  public:
    decoder(const u8 *data, size_t size) : at_(data), end_(data + size) {}
    bool empty() const { return at_ == end_; }
    u64 below(u64 n) { return (byte() | (n > 256 ? byte() << 8 : 0)) % n; }
    u64 pages() {
        const u64 choice = below(32);
        return choice < std::size(edges) ? edges[choice] : below(REGION_PAGES);
    }

  private:
    u64 byte() { return at_ == end_ ? 0 : *at_++; }
    const u8 *at_, *end_;
};

void write(op_record &op, op_slot slot, u64 value) {
    std::memcpy(reinterpret_cast<char *>(&op) + slot.at, &value, slot.bytes);
}

// A number that a field can hold, by its kind: one that Program.check lets through.
u64 drawn(decoder &d, field_kind kind) {
    switch (kind) {
    case KIND_bytes:
        return d.pages() * PAGE_SIZE;
    case KIND_region:
    case KIND_table:
        return d.below(NR_REGIONS);
    case KIND_process:
        return d.below(NR_PROCESSES);
    case KIND_cgroup:
        return d.below(4);
    case KIND_order:
        return 2 + d.below(PMD_ORDER - 1);
    case KIND_orders:
        return (d.below(256) << 2) | d.below(2);
    case KIND_block_order:
        return 1 + d.below(MAX_PAGE_ORDER);
    case KIND_mode:
        return d.below(NR_THP_MODES);
    case KIND_vm_flags:
        return VM_READ | VM_WRITE | (d.below(8) == 0 ? VM_FILE : 0) | (d.below(8) == 0 ? VM_NOHUGEPAGE : 0);
    case KIND_protection:
        return d.below(3) ? (d.below(2) ? VM_READ : VM_READ | VM_WRITE) : 0;
    case KIND_advice:
        return advices[d.below(std::size(advices))];
    case KIND_touch:
        return d.below(NR_TOUCHES);
    case KIND_content:
        return d.below(101);
    case KIND_count:
        return d.below(64);
    case KIND_weight:
        return d.below(2) ? 1 : 1 + d.below(1000);
    case KIND_ps:
        return d.below(65536) << 8;
    case KIND_share:
        return d.below(257) << 8;
    case KIND_index:
        return d.below(1001);
    case KIND_limit:
    case KIND_device:
        return (1 + d.below(2047)) * PAGE_SIZE;
    case KIND_setting:
        return d.below(NR_SETTINGS);
    case KIND_placement:
        return d.below(NR_PLACEMENTS);
    case KIND_pattern: // there are no tables
        return d.below(2) ? PATTERN_UNIFORM : PATTERN_CHASE;
    default:
        return d.below(8);
    }
}

// What a slot holds depends on where a mapping goes.
void place(op_record &op, decoder &d) {
    const u64 of = stored(op, SLOT_c);
    write(op, SLOT_b, d.below(3) * PAGE_SIZE);
    if (op.op == OP_mmap) {
        op.length = REGION_PAGES * PAGE_SIZE;
        write(op, SLOT_a,
              of == AT_SLOT      ? PMD_SIZE
              : of == AT_ADDRESS ? (1ULL << 32) + d.pages() * PAGE_SIZE
                                 : 0);
    } else {
        write(op, SLOT_c, of == AT_REGION ? AT_ADDRESS : of);
        write(op, SLOT_a, of == AT_SLOT ? PMD_SIZE : (1 + d.pages()) * PAGE_SIZE);
        write(op, SLOT_d, (1ULL << 33) + d.pages() * PAGE_SIZE);
    }
}

op_record next_op(decoder &d) {
    op_record op{};
    op.op = static_cast<u16>(d.below(NR_OPS));
    op.process = static_cast<u16>(d.below(NR_PROCESSES));
    op.weight = 1;
    for (const op_field &field : DECLARATIONS[op.op].fields)
        if (field.name && !field.either) write(op, field.slot, drawn(d, field.kind));
    switch (op.op) {
    case OP_set: {
        const u64 path = stored(op, SLOT_a);
        write(op, SLOT_b, d.below(SETTING_VALUES[path]));
        if (path != SET_SWAPPINESS) op.aux = 0;
        break;
    }
    case OP_mmap:
    case OP_mremap:
        place(op, d);
        break;
    case OP_touch: {
        const u64 kind = stored(op, SLOT_b);
        write(op, SLOT_a, (d.below(4) ? 1 : 16) * PAGE_SIZE);
        if (kind == TOUCH_WRITEZ || kind == TOUCH_FILL) write(op, SLOT_c, kind == TOUCH_FILL ? 100 : 0);
        break;
    }
    case OP_access:
        write(op, SLOT_d_low, d.below(65536));
        break;
    case OP_replay: // there are no recorded accesses
        op.offset = op.length = 0;
        break;
    case OP_pin:
        op.length = std::min(op.length, 64 * PAGE_SIZE);
        break;
    case OP_khugepaged:
        write(op, SLOT_a, 1 + d.below(8));
        break;
    case OP_compute:
        write(op, SLOT_a, d.below(65536) << 24);
        break;
    default:
        break;
    }
    if (op.op != OP_brk && op.op != OP_replay) op.length = std::max(op.length, PAGE_SIZE);
    return op;
}

machine_config small_machine(decoder &d) {
    machine_config c{};
    c.nr_pages = 4096;
    c.max_vmas = 64;
    c.max_mms = 4;
    c.max_page_tables = 96;
    c.nr_cpus = 2;
    c.shadow_tlb = d.below(2);
    c.time_by_vma = d.below(2);
    c.arch = static_cast<u32>(d.below(NR_ARCHS));
    c.features = static_cast<u32>(d.below(1U << NR_FEATURES));
    if (c.arch == ARCH_X86_64) c.features &= ~(1U << FEATURE_entire_mapcount | 1U << FEATURE_zero_64k);
    c.pool_blocks = c.features >> FEATURE_pool_64k & 1 ? 32 : 0;
    c.min_free_kbytes = d.below(2) ? NIL : 0;
    for (tlb_geometry &array : c.tlb.arrays) array = {1, 0};
    constexpr tlb_geometry first_levels[] = {{4, 2}, {1, 20}, {1, 70}};
    c.tlb.arrays[L1_4K] = first_levels[d.below(std::size(first_levels))];
    c.tlb.arrays[L1_2M] = {2, 2};
    c.tlb.arrays[L2] = {8, 2};
    for (tlb_geometry &cache : c.tlb.pwc) cache = {1, 2};
    for (auto &level : c.tlb.of_size) std::fill(std::begin(level), std::end(level), NIL);
    c.tlb.of_size[0][SIZE_4K] = L1_4K;
    c.tlb.of_size[0][SIZE_2M] = L1_2M;
    c.tlb.of_size[1][SIZE_4K] = c.tlb.of_size[1][SIZE_2M] = L2;
    if (c.arch != ARCH_X86_64) {
        c.tlb.of_size[0][SIZE_CONTPTE] = L1_4K;
        c.tlb.of_size[1][SIZE_CONTPTE] = L2;
    }
    if (d.below(2)) {
        c.tlb.coalesced_order = 2;
        c.tlb.of_size[0][SIZE_COALESCED] = L1_4K;
        c.tlb.of_size[1][SIZE_COALESCED] = L2;
    }
    c.tlb.nested = {1, 0};
    c.clock.fault = c.clock.syscall = 1000;
    return c;
}

void expect_consistent(machine &m, const op_record *op) {
    const std::string broken = validate(m);
    if (broken.empty()) return;
    std::fprintf(stderr, "after operation %d: %s\n", op ? op->op : -1, broken.c_str());
    std::abort();
}

// The run after these bytes: one that a host stops after a second, so that none goes on for ever.
run_status run_a_while(machine &m, const program_view &program, const run_budget &budget) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    return run_interruptible(m, program, budget, [end] { return std::chrono::steady_clock::now() > end; });
}

// One operation in pieces; a copy of the program that ends with the next one is all there is.
run_status run_in_pieces(machine &m, const std::vector<op_record> &ops, u64 pieces) {
    const u64 op = m.h->at.op;
    run_status status = RUN_WINDOW;
    while (status == RUN_WINDOW && m.h->at.op == op) {
        const u64 so_far = std::min<u64>(op + 2, ops.size());
        const std::vector<op_record> written(ops.begin(), ops.begin() + static_cast<i64>(so_far));
        run_budget budget;
        budget.ops = 1;
        budget.go_on = true;
        budget.fast = false;
        if (pieces % 2) budget.accesses = 1 + pieces % 7;
        if (pieces % 3) budget.until = m.h->clock + 1 + pieces * 100;
        if (pieces % 5 == 0) budget.choices = 1;
        status = run(m, {written.data(), nullptr, nullptr, nullptr, written.size(), 1}, budget);
    }
    return status;
}

// What a policy may decide between two operations.
void collapse_where_walked(machine &m) {
    const u32 mm = m.processes[0];
    if (mm != NIL) collapse_walked(m, mm, 0, ~0ULL, 1);
}

// FNV-1a over words, as state.cpp puts it behind a state.
u64 checksum(const std::vector<std::byte> &data, u64 size) {
    u64 sum = 0xcbf29ce484222325ULL;
    for (u64 at = 0; at < size; at += sizeof(u64)) {
        u64 word = 0;
        std::memcpy(&word, data.data() + at, std::min<u64>(sizeof word, size - at));
        sum = (sum ^ word) * 0x100000001b3ULL;
        sum ^= sum >> 32;
    }
    return sum;
}

// Changes up to four words: anywhere, in the header, or in what follows the page tables.
void damage(std::vector<std::byte> &data, u64 size, u64 key) {
    u64 drawn = 0;
    const auto below = [&](u64 n) { return draw(key, ++drawn) % n; };
    for (u64 i = 0, n = 1 + below(4); i < n; ++i) {
        const u64 rest = std::min<u64>(size, 65536), place = below(4);
        const u64 byte = place == 0   ? below(size)
                         : place == 1 ? size - 1 - below(rest)
                                      : below(sizeof(header));
        const u64 at = std::min(byte & ~3ULL, size - 4);
        u32 value = 0;
        std::memcpy(&value, data.data() + at, sizeof value);
        const u32 values[] = {0,          1,
                              NIL,        value + 1,
                              value - 1,  value ^ 1U << below(32),
                              0x7fffffff, value * 2,
                              value / 2,  static_cast<u32>(below(65536))};
        value = values[below(std::size(values))];
        std::memcpy(data.data() + at, &value, sizeof value);
    }
    const u64 sum = checksum(data, size);
    std::memcpy(data.data() + size, &sum, sizeof sum);
}

// Loads what save() returned, damaged, and runs what is taken for a machine.
void run_damaged(const machine &m, const program_view &program, u64 key) {
    std::vector<std::byte> data = m.save(0);
    damage(data, data.size() - sizeof(u64), key);
    machine *loaded = nullptr;
    if (!m.load(data.data(), data.size(), 0, &loaded).empty()) return;
    const std::unique_ptr<machine> owned(loaded);
    if (!validate_loaded(*loaded, program).empty()) return;
    run_budget budget;
    budget.go_on = true;
    try {
        run_a_while(*loaded, program, budget);
        validate(*loaded);
    } catch (const stopped_midway &) { // a call that did not end was left
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
    decoder d(data, size);
    const machine_config config = small_machine(d);
    const u64 pieces = d.below(2) ? d.below(64) : 0, daemon = d.below(4) ? 0 : d.below(32);
    const u64 damaged_at = d.below(2) ? d.below(MAX_OPS) : MAX_OPS, damage_key = mix64(d.below(65536));
    const u64 walk_period = d.below(4) ? 0 : 1 + d.below(64);
    std::vector<op_record> ops;
    // Two regions first, and who forks does it once: what comes later finds something.
    for (u32 i = 0; i < 2; ++i) {
        op_record op{};
        op.op = OP_mmap;
        op.region = i;
        op.length = REGION_PAGES * PAGE_SIZE;
        op.a = PMD_SIZE;
        op.b = i * 4 * PAGE_SIZE;
        op.d = VM_READ | VM_WRITE | VM_HUGEPAGE;
        ops.push_back(op);
    }
    bool forked[NR_PROCESSES] = {true};
    while (!d.empty() && ops.size() < MAX_OPS) {
        op_record op = next_op(d);
        if (op.op == OP_process_madvise) { // of the ranges that were named just before
            const auto other =
                std::find_if(ops.rbegin(), ops.rend(), [](const op_record &o) { return o.op != OP_iovec; });
            op.b = static_cast<u64>(other - ops.rbegin());
            if (op.b == 0) continue;
        }
        if (op.op == OP_fork && std::exchange(forked[op.aux], true)) continue;
        ops.push_back(op);
    }
    const size_t last = ops.size();
    for (u32 i = 0; i < NR_PROCESSES; ++i) {
        op_record op{};
        op.op = OP_exit;
        op.aux = op.process = static_cast<u16>(i);
        ops.push_back(op);
    }
    machine m(config, {NR_REGIONS, NR_PROCESSES, 2048, 8 * REGION_PAGES});
    for (u32 order = 2; order <= PMD_ORDER; ++order) m.h->thp_mode[order] = THP_MADVISE;
    boot(m, 0, 0);
    if (daemon) m.h->policy.khugepaged_pages = daemon * 64;
    m.h->policy.walk_period = walk_period;
    const u64 share_from = pieces % 2 ? 0 : host_memory::SHARE_FROM;
    std::unique_ptr<machine> cut(pieces ? m.clone(share_from) : nullptr);
    program_view program{ops.data(), nullptr, nullptr, nullptr, ops.size(), 1};
    for (;;) {
        const op_record *op = &ops[std::min<u64>(m.h->at.op, ops.size() - 1)];
        const bool damaged = m.h->at.op == damaged_at;
        run_budget budget;
        budget.ops = 1;
        budget.go_on = true;
        const run_status status = run(m, program, budget);
        expect_consistent(m, op);
        for (u64 i = 0; damaged && i < DAMAGED_STATES; ++i) run_damaged(m, program, damage_key + i);
        if (cut && m.h->at.op <= ops.size() && status != RUN_OOM) {
            if (pieces % 4 == 1) cut.reset(cut->clone(share_from));
            const run_status ended = run_in_pieces(*cut, ops, pieces);
            if (ended == RUN_OOM || !m.equals(*cut)) {
                const std::vector<std::byte> whole = m.save(0), other = cut->save(0);
                const auto differ =
                    std::mismatch(whole.begin(), whole.end(), other.begin(), other.end()).first;
                std::fprintf(stderr, "operation %d in %llu pieces (%u, %u): byte %td of the state\n", op->op,
                             pieces, status, ended, differ - whole.begin());
                std::abort();
            }
        }
        if (walk_period && m.h->at.op % 4 == 0 && !m.h->at.call.reached) {
            collapse_where_walked(m);
            if (cut) collapse_where_walked(*cut);
            expect_consistent(m, nullptr);
        }
        if (status == RUN_DONE || status == RUN_OVERFLOW) break;
        if (status == RUN_OOM) {
            if (cut) return 0;
            m.h->at = {std::max<u64>(m.h->at.op + 1, last), 0, 0, 0, 0};
        }
        if (status == RUN_ERROR || m.h->at.op >= ops.size()) break;
    }
    return 0;
}

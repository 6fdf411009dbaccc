// The operations of a trace program, each declared once. From the declaration come its struct here, the call
// of its function (system_call.cpp), and what Python reads, writes, checks and documents (traces/fields.py).
#pragma once
#include "memcg.hpp"
#include "uapi.hpp"
#include <cstring>

namespace thp {

// One operation as it stands in a program. What a slot holds is said by the operation's fields.
struct op_record {
    u16 op, process;
    u32 region;
    u64 offset, length, a, b, c, d;
    u32 weight, aux;
};
static_assert(sizeof(op_record) == 64);

// X(slot, first byte, bytes)
#define THP_SLOTS(X)                                                                                         \
    X(process, 2, 2)                                                                                         \
    X(region, 4, 4)                                                                                          \
    X(offset, 8, 8)                                                                                          \
    X(length, 16, 8)                                                                                         \
    X(a, 24, 8)                                                                                              \
    X(b, 32, 8)                                                                                              \
    X(c, 40, 8)                                                                                              \
    X(d, 48, 8)                                                                                              \
    X(d_low, 48, 4)                                                                                          \
    X(d_high, 52, 4)                                                                                         \
    X(weight, 56, 4)                                                                                         \
    X(aux, 60, 4)

// What a field can hold. X(kind, type, first number that it cannot hold or 0, what such a number is called)
#define THP_FIELD_KINDS(X)                                                                                   \
    X(number, u64, 0, "")                                                                                    \
    X(bytes, u64, 0, "")                                                                                     \
    X(region, u32, 0, "")                                                                                    \
    X(process, u32, 0, "")                                                                                   \
    X(cgroup, u32, MAX_MEMCGS, "control group")                                                              \
    X(order, u32, PMD_ORDER + 1, "folio order")                                                              \
    X(orders, u32, THP_ORDERS_ALL + 1, "folio order")                                                        \
    X(block_order, u32, MAX_PAGE_ORDER + 1, "order")                                                         \
    X(mode, thp_mode, NR_THP_MODES, "mode")                                                                  \
    X(setting, thp_setting, NR_SETTINGS, "setting")                                                          \
    X(value, u32, 0, "")                                                                                     \
    X(placement, placement, NR_PLACEMENTS, "placement")                                                      \
    X(vm_flags, u32, 0, "")                                                                                  \
    X(protection, u32, (VM_READ | VM_WRITE) + 1, "protection")                                               \
    X(advice, u64, 0, "")                                                                                    \
    X(touch, touch_kind, NR_TOUCHES, "kind of touch")                                                        \
    X(pattern, access_pattern, NR_PATTERNS, "access pattern")                                                \
    X(content, u8, 101, "content class")                                                                     \
    X(count, u64, (1ULL << 62) + 1, "count of accesses")                                                     \
    X(weight, u32, 0, "")                                                                                    \
    X(ps, u64, 0, "")                                                                                        \
    X(share, u32, (1U << 16) + 1, "share")   /* in parts of 2^16 */                                          \
    X(index, u32, 1001, "index")             /* in thousandths */                                            \
    X(limit, u64, (1ULL << 62) + 1, "limit") /* bytes; 2^62: none */                                         \
    X(device, u64, (256ULL << 30) + 1, "size of swap: at most 256 GiB")                                      \
    X(table, u32, 0, "")

// X(name, how it runs, fields). How: CALL is a system call, ACCESS makes accesses, USER is the program's own.
// FIELD(slot, kind, name) and, where the slot holds something else for other values of the operation,
// OR(...). Numbers are part of the file format: append, never reorder.
#define THP_REGION FIELD(region, region, region)
#define THP_RANGE THP_REGION FIELD(offset, bytes, offset) FIELD(length, bytes, length)
#define THP_OPS(X)                                                                                           \
    X(thp, CALL, FIELD(a, order, order) FIELD(b, mode, mode))                                                \
    X(set, CALL, FIELD(a, setting, path) FIELD(b, value, value) FIELD(aux, cgroup, group))                   \
    X(mmap, CALL,                                                                                            \
      THP_REGION FIELD(length, bytes, length) FIELD(c, placement, placement) FIELD(a, bytes, address)        \
          OR(a, bytes, align) OR(a, bytes, at_offset) FIELD(b, bytes, slot_offset) FIELD(aux, table, at)     \
              FIELD(d, vm_flags, flags))                                                                     \
    X(munmap, CALL, THP_RANGE)                                                                               \
    X(mprotect, CALL, THP_RANGE FIELD(a, protection, prot))                                                  \
    X(mremap, CALL,                                                                                          \
      THP_RANGE FIELD(aux, region, to) FIELD(c, placement, placement) FIELD(a, bytes, new_length)            \
          OR(a, bytes, align) FIELD(b, bytes, slot_offset) FIELD(d, bytes, address))                         \
    X(brk, CALL, THP_REGION FIELD(length, bytes, length))                                                    \
    X(advise, CALL, THP_RANGE FIELD(a, advice, advice))                                                      \
    X(touch, ACCESS, THP_RANGE FIELD(a, bytes, stride) FIELD(b, touch, kind) FIELD(c, content, content))     \
    X(mlock, CALL, THP_RANGE)                                                                                \
    X(munlock, CALL, THP_RANGE)                                                                              \
    X(prctl, CALL, FIELD(a, number, disable) FIELD(b, number, flags))                                        \
    X(shrink, CALL, )                                                                                        \
    X(exit, CALL, FIELD(aux, process, ending))                                                               \
    X(access, ACCESS,                                                                                        \
      THP_RANGE FIELD(a, pattern, pattern) FIELD(b, count, count) FIELD(c, ps, ps)                           \
          FIELD(d_low, number, write_share) FIELD(d_high, content, content) FIELD(weight, weight, weight)    \
              FIELD(aux, table, table) OR(aux, table, stride))                                               \
    X(replay, ACCESS,                                                                                        \
      FIELD(offset, number, first) FIELD(length, number, count) FIELD(c, ps, ps) FIELD(d, content, content)  \
          FIELD(weight, weight, weight))                                                                     \
    X(compute, USER, FIELD(a, ps, ps))                                                                       \
    X(slice, CALL, FIELD(process, process, running))                                                         \
    X(orders, CALL, THP_RANGE FIELD(a, orders, mask))                                                        \
    X(split, CALL, THP_RANGE)                                                                                \
    X(fork, CALL, FIELD(aux, process, child))                                                                \
    X(pin, CALL, THP_RANGE)                                                                                  \
    X(unpin, CALL, )                                                                                         \
    X(swap, CALL, FIELD(length, device, length))                                                             \
    X(reclaim, CALL, FIELD(aux, cgroup, group))                                                              \
    X(khugepaged, CALL, FIELD(a, number, rounds))                                                            \
    X(limit, CALL, FIELD(length, limit, length) FIELD(aux, cgroup, group))                                   \
    X(swapoff, CALL, )                                                                                       \
    X(drain, CALL, )                                                                                         \
    X(pollute, CALL, FIELD(a, share, share))                                                                 \
    X(fragment, CALL, FIELD(a, block_order, order) FIELD(b, index, index))                                   \
    X(compact, CALL, )                                                                                       \
    X(iovec, USER, THP_RANGE)                                                                                \
    X(process_madvise, CALL,                                                                                 \
      FIELD(aux, process, target) FIELD(a, advice, advice) FIELD(b, number, ranges)                          \
          FIELD(c, orders, orders))                                                                          \
    X(capdrop, CALL, )                                                                                       \
    X(collapse, CALL, THP_RANGE FIELD(a, order, order))                                                      \
    X(cgroup, CALL, FIELD(aux, cgroup, group))

enum op_code : u16 {
#define X(name, how, fields) OP_##name,
    THP_OPS(X)
#undef X
        NR_OPS
};

enum op_way : u8 { CALL, ACCESS, USER };

struct op_slot {
    u32 at, bytes;
};
#define X(name, at, bytes) constexpr op_slot SLOT_##name{at, bytes};
THP_SLOTS(X)
#undef X
static_assert(SLOT_a.at == offsetof(op_record, a) && SLOT_d.at == offsetof(op_record, d) &&
              SLOT_weight.at == offsetof(op_record, weight) && SLOT_aux.at == offsetof(op_record, aux));

enum field_kind : u8 {
#define X(kind, type, below, what) KIND_##kind,
    THP_FIELD_KINDS(X)
#undef X
        NR_KINDS
};
#define X(kind, type, below, what) using type_of_##kind = type;
THP_FIELD_KINDS(X)
#undef X

inline u64 stored(const op_record &r, op_slot slot) {
    const char *const at = reinterpret_cast<const char *>(&r) + slot.at;
    u64 value = 0; // programs are little-endian, as what runs them
    std::memcpy(&value, at, slot.bytes);
    return value;
}

// An operation with its fields by name: struct op_mmap and the like.
struct op_base {
    const op_record &record;
    const u16 process = record.process;
};
#define FIELD(slot, kind, name)                                                                              \
    const type_of_##kind name = static_cast<type_of_##kind>(stored(record, SLOT_##slot));
#define OR FIELD
#define X(name, how, fields)                                                                                 \
    struct op_##name : op_base {                                                                             \
        explicit op_##name(const op_record &r) : op_base{r} {}                                               \
        static constexpr op_way WAY = how;                                                                   \
        fields                                                                                               \
    };
THP_OPS(X)
#undef X
#undef OR
#undef FIELD

// The declaration as data.
struct op_field {
    const char *name;
    op_slot slot;
    field_kind kind;
    bool either; // the slot of the field before, read otherwise
};
struct op_declaration {
    const char *name;
    op_way way;
    op_field fields[12];
    // Of two fields that lie on one another, one is an OR.
    constexpr bool sound() const {
        for (const op_field &f : fields)
            for (const op_field *g = fields; g < &f && f.name; ++g)
                if (!f.either && !g->either && f.slot.at < g->slot.at + g->slot.bytes &&
                    g->slot.at < f.slot.at + f.slot.bytes)
                    return false;
        return true;
    }
};
#define FIELD(slot, kind, name) {#name, SLOT_##slot, KIND_##kind, false},
#define OR(slot, kind, name) {#name, SLOT_##slot, KIND_##kind, true},
#define X(name, how, fields) {#name, how, {fields}},
constexpr op_declaration DECLARATIONS[NR_OPS] = {THP_OPS(X)};
#undef X
#undef OR
#undef FIELD
#define X(name, how, fields)                                                                                 \
    static_assert(DECLARATIONS[OP_##name].sound(), "two fields of the operation " #name " overlap");
THP_OPS(X)
#undef X

// One run of accesses to one page in a recording: `count` accesses, `instructions` until the next run.
struct access_record {
    u32 page;
    u16 region, written;
    u32 count, instructions;
};
static_assert(sizeof(access_record) == 16);

// A discrete distribution over pages as an alias table (Walker 1977) of bins; a bin is a run of ranks.
struct bin_record {
    u64 threshold;                    // of 2^32: below it this bin, else the alias
    u32 alias, first, count, scatter; // scatter: ranks are permuted over the range's pages
};
static_assert(sizeof(bin_record) == 24);

} // namespace thp

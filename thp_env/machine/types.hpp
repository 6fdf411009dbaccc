// Integer names and sizes that every file of the core shares.
#pragma once
#include <cstddef>
#include <cstdint>

namespace thp {

using u8 = std::uint8_t;
using i8 = std::int8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = unsigned long long; // as the kernel: the type of its constants
using i32 = std::int32_t;
using i64 = long long;

constexpr u32 NIL = 0xffffffffU; // no record

constexpr u32 LINE_SHIFT = 6, PAGE_SHIFT = 12, PMD_SHIFT = 21, PUD_SHIFT = 30, PGDIR_SHIFT = 39;
constexpr u64 PAGE_SIZE = 1ULL << PAGE_SHIFT, PMD_SIZE = 1ULL << PMD_SHIFT;
constexpr u32 PTRS_PER_TABLE = 512;
constexpr u32 PMD_ORDER = 9, HPAGE_PMD_NR = 512, MAX_PAGE_ORDER = 10;
constexpr int ENEEDORDER = 4096; // of a system call that waits for an order; no errno is that high
constexpr u32 PAGEBLOCK_ORDER = 9, PAGEBLOCK_NR_PAGES = 1U << PAGEBLOCK_ORDER;
constexpr u64 TASK_SIZE = 0x7ffffffff000ULL;

constexpr u64 align_down(u64 x, u64 to) { return x & ~(to - 1); }
constexpr u64 align_up(u64 x, u64 to) { return (x + to - 1) & ~(to - 1); }

} // namespace thp

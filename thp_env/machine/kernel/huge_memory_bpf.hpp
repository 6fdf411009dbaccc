// The proposed mm/huge_memory_bpf.c (Y. Shao, "mm, bpf: BPF-THP", v8, September 2025): somebody outside
// chooses the order of a fault. Here nobody is called: the question lies in the machine until it is answered.
#pragma once
#include "../state.hpp"

namespace thp {

// The orders that a VMA may use at an address: thp_vma_allowable_orders(), and what was answered about its
// block.
u32 thp_get_orders(const machine &m, const vm_area_struct &vma, u64 address, tva_type type);

// Whether a fault, or khugepaged, has to wait for an order. If so the question is asked, and nothing else
// changed.
bool thp_fault_asks(machine &m, const vm_area_struct &vma, u64 address, bool write);
bool thp_khugepaged_asks(machine &m, const vm_area_struct &vma, u64 address);

// Answers the question: 0, -EINVAL for an order that was not offered, -ENOMEM when no more can be remembered.
int thp_resolve(machine &m, u32 order);

// What was answered about blocks of a VMA is kept under its id, until a zap takes all that it has in a block.
void order_answers_zap(machine &m, const vm_area_struct &vma, u64 start, u64 end);
// [start, end) belongs to another id now; both keep what is known of the block around `cut`, where they meet.
void order_answers_move(machine &m, u32 from, u32 to, u64 start, u64 end, u64 cut);
// Where the answers about a block stand; nullptr when there are none.
order_answer *order_answers_find(const machine &m, u32 vma_id, u64 address);
// For validate(): every answer is found, and is about a VMA that has a part in the block.
bool order_answers_sound(const machine &m);

} // namespace thp

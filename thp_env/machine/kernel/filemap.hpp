// mm/filemap.c, and do_fault of mm/memory.c: mappings of files and of shared memory. Their pages are single,
// stay in the page cache once they are there, and are nobody's choice; they take memory, page tables and TLB
// entries.
#pragma once
#include "memory.hpp"

namespace thp {

// Makes a file of so many pages, none of them cached; 0 when the table of the page cache is full. The result
// is a VMA's vm_file.
u32 file_create(machine &m, u64 pages);
// A fault on an empty entry of such a mapping.
vm_fault do_fault(machine &m, u32 vma, u64 address, u64 *pmd, bool write);

} // namespace thp

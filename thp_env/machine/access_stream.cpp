#include "access_stream.hpp"
#include <algorithm>

namespace thp {

access_stream::access_stream(const machine &m, const program_view &p, const op_record &op)
    : op_(op), records_(nullptr), regions_(m.regions),
      pattern_{op_access(op), key_of(p.seed, m.h->at.op), nullptr, 0}, start_(0) {
    if (op.op == OP_replay) {
        records_ = p.accesses + op_replay(op).first;
    } else {
        start_ = m.regions[op.region].start + op.offset;
    }
    if (op.op == OP_access && pattern_.op.pattern == PATTERN_BINS) {
        pattern_.bins = p.bins + p.alias_tables[2 * pattern_.op.table];
        pattern_.nr_bins = p.alias_tables[2 * pattern_.op.table + 1];
    }
}

u32 access_stream::weight() const { return op_.op == OP_touch ? 1 : op_.weight; }

u8 access_stream::content() const {
    switch (op_.op) {
    case OP_touch:
        return op_touch(op_).content;
    case OP_access:
        return op_access(op_).content;
    default:
        return op_replay(op_).content;
    }
}

void access_stream::write(access_block &b, u64 first, u64 nr) const {
    switch (op_.op) {
    case OP_touch:
        return write_touches(b, first, nr);
    case OP_access:
        return write_pattern(b, first, nr);
    default:
        return write_records(b, first, nr);
    }
}

void access_stream::write_touches(access_block &b, u64 first, u64 nr) const {
    const op_touch op(op_);
    for (u64 i = 0; i < nr; ++i) {
        b.address[i] = start_ + (first + i) * op.stride;
        b.ps[i] = 0;
        b.count[i] = 1;
        b.write[i] = op.kind != TOUCH_READ;
    }
}

void access_stream::write_pattern(access_block &b, u64 first, u64 nr) const {
    const u64 write_share = pattern_.op.write_share, ps = pattern_.op.ps;
    pattern_.write(first, nr, b.address);
    for (u64 i = 0; i < nr; ++i) {
        b.address[i] += start_;
        b.ps[i] = ps;
        b.count[i] = 1;
        b.write[i] = write_share && (draw(~pattern_.key, first + i) & 0xffff) < write_share;
    }
}

void access_stream::write_records(access_block &b, u64 first, u64 nr) const {
    const u64 ps = op_replay(op_).ps;
    for (u64 i = 0; i < nr; ++i) {
        const access_record &r = records_[first + i];
        b.address[i] = regions_[r.region].start + (u64{r.page} << PAGE_SHIFT);
        b.ps[i] = r.instructions * ps;
        b.count[i] = std::max(r.count, 1U);
        b.write[i] = r.written;
    }
}

} // namespace thp

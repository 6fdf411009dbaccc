// The memory that a machine's state lies in. Copies of large ones share what neither has changed.
#pragma once
#include "types.hpp"
#include <cstddef>
#include <memory>
#include <vector>

namespace thp {

struct byte_range {
    u64 start, end;
};

class host_memory {
  public:
    // A copy of less is faster than the host's faults on shared pages.
    static constexpr u64 SHARE_FROM = 64ULL << 20;

    host_memory() = default;
    // Zeroed. Capacity is free: the host gives memory where it is used. Throws std::bad_alloc.
    explicit host_memory(u64 size);
    ~host_memory();
    host_memory(host_memory &&other) noexcept { swap(other); }
    host_memory &operator=(host_memory &&other) noexcept {
        swap(other);
        return *this;
    }

    // One with the same bytes in `parts`, which ascend. Where those are `share_from` bytes or more, they
    // are moved into an image, and this one may stand at another address afterwards.
    host_memory copy(const std::vector<byte_range> &parts, u64 share_from = SHARE_FROM);
    std::byte *data() const { return data_; }
    // Lets a part lie in huge pages of the host, also in copies.
    void use_huge_pages(const byte_range &part);
    // Asks the host at once for memory that is about to be used: a fault for each page costs more.
    void populate(u64 offset, u64 bytes) const;

  private:
    struct image;

    std::byte *data_ = nullptr;
    u64 size_ = 0;
    byte_range huge_ = {};
    std::shared_ptr<const image> image_; // what pages hold that were not written to since

    void swap(host_memory &other) noexcept;
    bool map(const std::shared_ptr<const image> &from);
    bool move_into_image(const std::vector<byte_range> &pages);
    bool own_pages(const std::vector<byte_range> &pages, std::vector<byte_range> *own) const;
};

} // namespace thp

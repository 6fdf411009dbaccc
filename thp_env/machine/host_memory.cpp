#include "host_memory.hpp"
#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE                                                                                  \
    23 // Linux 5.14; headers may be older, and an older kernel refuses it without harm
#endif

namespace thp {

namespace {

// Where more than a quarter has changed since the image was made, a new one is made.
constexpr u64 CHANGED_SHARE = 4;

constexpr int WRITABLE = PROT_READ | PROT_WRITE, PRIVATE = MAP_PRIVATE | MAP_NORESERVE;

struct file {
    const int fd;
    explicit file(int descriptor) : fd(descriptor) {}
    ~file() {
        if (fd >= 0) close(fd);
    }
    file(const file &) = delete;
    file &operator=(const file &) = delete;
};

int memory_file() {
#ifdef MFD_CLOEXEC
    return memfd_create("thp_env", MFD_CLOEXEC);
#else
    return -1;
#endif
}

u64 bytes_of(const std::vector<byte_range> &ranges) {
    u64 bytes = 0;
    for (const byte_range &r : ranges) bytes += r.end - r.start;
    return bytes;
}

void append(std::vector<byte_range> *ranges, const byte_range &next) {
    if (!ranges->empty() && next.start <= ranges->back().end) {
        ranges->back().end = std::max(ranges->back().end, next.end);
    } else if (next.start < next.end) {
        ranges->push_back(next);
    }
}

// The pages of the host that hold them.
std::vector<byte_range> pages_of(const std::vector<byte_range> &parts, u64 page) {
    std::vector<byte_range> pages;
    for (const byte_range &r : parts) {
        if (r.start < r.end) append(&pages, {align_down(r.start, page), align_up(r.end, page)});
    }
    return pages;
}

u64 host_page() {
    static const auto size = static_cast<u64>(sysconf(_SC_PAGESIZE));
    return size;
}

} // namespace

// A file without a name, whose pages the host copies when a private mapping is written to. Never changes.
struct host_memory::image : file {
    std::vector<byte_range> pages;
    using file::file;

    bool write(const std::byte *data, const std::vector<byte_range> &ranges) {
        for (byte_range r : ranges) {
            while (r.start < r.end) {
                const ssize_t n = pwrite(fd, data + r.start, r.end - r.start, static_cast<off_t>(r.start));
                if (n <= 0) return false;
                r.start += static_cast<u64>(n);
            }
        }
        pages = ranges;
        return true;
    }
};

host_memory::host_memory(u64 size) : size_(size) {
    void *memory = mmap(nullptr, size, WRITABLE, PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<std::byte *>(memory);
}

host_memory::~host_memory() {
    if (data_) munmap(data_, size_);
}

void host_memory::swap(host_memory &other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(huge_, other.huge_);
    std::swap(image_, other.image_);
}

void host_memory::use_huge_pages(const byte_range &part) {
    huge_ = part;
    const u64 start = align_up(part.start, host_page()), end = align_down(part.end, host_page());
    if (start < end) madvise(data_ + start, end - start, MADV_HUGEPAGE);
}

void host_memory::populate(u64 offset, u64 bytes) const {
    if (bytes < 2 * host_page()) return;
    const u64 start = align_down(offset, host_page());
    madvise(data_ + start, offset + bytes - start, MADV_POPULATE_WRITE);
}

bool host_memory::map(const std::shared_ptr<const image> &from) {
    for (const byte_range &r : from->pages) {
        if (mmap(data_ + r.start, r.end - r.start, WRITABLE, PRIVATE | MAP_FIXED, from->fd,
                 static_cast<off_t>(r.start)) == MAP_FAILED)
            return false;
    }
    image_ = from;
    return true;
}

bool host_memory::move_into_image(const std::vector<byte_range> &pages) {
    const auto copy = std::make_shared<image>(memory_file());
    if (copy->fd < 0 || !copy->write(data_, pages)) return false;
    host_memory moved(size_);
    moved.use_huge_pages(huge_);
    if (!moved.map(copy)) return false;
    swap(moved);
    return true;
}

// The pages that are no longer, or never were, those of the image: memory of the process itself.
// Documentation/admin-guide/mm/pagemap.rst says what the bits mean.
bool host_memory::own_pages(const std::vector<byte_range> &pages, std::vector<byte_range> *own) const {
    constexpr u64 PRESENT = 1ULL << 63, SWAPPED = 1ULL << 62, OF_FILE = 1ULL << 61;
    const file pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    if (pagemap.fd < 0) return false;
    std::vector<u64> entries(1U << 13);
    const u64 page = host_page(), base = reinterpret_cast<u64>(data_) / page;
    for (const byte_range &r : pages) {
        for (u64 at = r.start / page, end = r.end / page, n = 0; at < end; at += n) {
            n = std::min<u64>(end - at, entries.size());
            const auto size = static_cast<ssize_t>(n * sizeof(u64));
            if (pread(pagemap.fd, entries.data(), n * sizeof(u64),
                      static_cast<off_t>((base + at) * sizeof(u64))) != size)
                return false;
            for (u64 i = 0; i < n; ++i) {
                if ((entries[i] & (PRESENT | SWAPPED)) && !(entries[i] & OF_FILE))
                    append(own, {(at + i) * page, (at + i + 1) * page});
            }
        }
    }
    return true;
}

host_memory host_memory::copy(const std::vector<byte_range> &parts, u64 share_from) {
    host_memory out(size_);
    out.use_huge_pages(huge_);
    const std::vector<byte_range> pages = pages_of(parts, host_page());
    const u64 bytes = bytes_of(pages);
    std::vector<byte_range> copied = parts;
    std::vector<byte_range> own;
    if (bytes >= share_from && (!image_ || own_pages(pages, &own))) {
        if (!image_ || bytes_of(own) > bytes / CHANGED_SHARE) {
            if (move_into_image(pages)) {
                own.clear();
            } else {
                own = pages;
            }
        }
        if (image_ && out.map(image_)) copied = own;
    }
    for (const byte_range &r : copied) {
        out.populate(r.start, r.end - r.start);
        std::memcpy(out.data_ + r.start, data_ + r.start, r.end - r.start);
    }
    return out;
}

} // namespace thp

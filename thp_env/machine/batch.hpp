// Many machines at once: what a policy decided, a window of the program, what it is asked next. A single
// machine takes the same path.
#pragma once
#include "monitor.hpp"
#include "run.hpp"
#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace thp {

// What a policy can do to one VMA.
enum verb : u32 {
    VERB_NOTHING,
    VERB_ORDERS,
    VERB_SPLIT,
    VERB_ADVISE,
    VERB_RESOLVE,
    VERB_COLLAPSE,
    VERB_COLLAPSE_WALKED,
    NR_VERBS
};

struct decision {
    u32 vma, verb, value; // the VMA's id; the order mask, the advice, or the order that was asked for
};

// Collapses the 2M blocks of a range in which there were so many page walks; the last errno (0: none failed).
int collapse_walked(machine &m, u32 mm, u64 start, u64 end, u64 walks);

// Does it to an address range; 0 or a negative errno.
int decide_range(machine &m, u32 mm, u64 start, u64 end, u32 verb, u32 value);
// Carries a decision out; 0 or a negative errno, -ESRCH when the VMA is gone.
int decide(machine &m, const decision &d);

enum question : u32 { QUESTION_NONE, QUESTION_VMA, QUESTION_SLOTS, QUESTION_ORDER };

// A window ends with the first limit that is reached; when a VMA is to be asked about and none has a reason
// to be, another window follows, unless `idle`.
struct window {
    u64 ps, choices, accesses;
    bool new_vma;
    u32 question, slots, every; // every: see smaps()
    bool idle;
    u32 reasons; // for questions about VMAs, besides that they are new or faulted (monitor.hpp)
};

// One machine of a batch and where it puts its answers.
struct batch_item {
    machine *m;
    const program_view *program;
    const decision *decisions; // `slots` of them, or null
    u32 *slots;
    vma_smaps *rows; // one, or one more than slots
    u64 *snapshot;   // SNAPSHOT_WIDTH
    u32 others;
    run_status status;
    bool broken = false; // stopped in the middle of an operation
};

// Threads that share out the items of a loop; the calling thread is one of them.
class thread_pool {
  public:
    explicit thread_pool(u32 threads);
    ~thread_pool();
    thread_pool(const thread_pool &) = delete;
    thread_pool &operator=(const thread_pool &) = delete;

    // Calls work(i, whether on the calling thread) for i in [0, n) and waits for all, calling idle()
    // meanwhile.
    void run(u32 n, const std::function<void(u32, bool)> &work, const std::function<bool()> &idle);

  private:
    void drain(bool caller);
    void serve();

    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable start_, done_;
    const std::function<void(u32, bool)> *work_ = nullptr;
    std::atomic<u32> next_{0}, busy_{0};
    std::atomic<u64> round_{0};
    u32 n_ = 0;
    bool stop_ = false;
};

// Runs as run() does, and asks now and then whether to stop early; false from both: go on. Throws
// stopped_midway from an operation that cannot.
run_status run_interruptible(machine &m, const program_view &program, run_budget budget,
                             const std::function<bool()> &stopped);

// Calls work(i, whether to stop) for i in [0, n) on the threads of a pool, and broken(i) where it ended
// midway. interrupted() is asked on the calling thread; true ends all calls early. Returns false when that
// happened.
bool share_out(thread_pool &pool, u32 n, const std::function<void(u32, const std::function<bool()> &)> &work,
               const std::function<void(u32)> &broken, const std::function<bool()> &interrupted);

// One step of every item. interrupted() is asked on the calling thread; true ends all runs early.
// Returns false when that happened.
bool advance(thread_pool &pool, batch_item *items, u32 n, const window &w,
             const std::function<bool()> &interrupted);

} // namespace thp

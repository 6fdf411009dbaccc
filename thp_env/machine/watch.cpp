#include "watch.hpp"

namespace thp {

namespace {

constexpr std::chrono::milliseconds BETWEEN_QUESTIONS(20), TO_END(300);

} // namespace

bool host_watch::ask() {
    if (stop || !stopped_) return stop;
    asked_ = clock::now();
    stop = (*stopped_)();
    stopping_since_ = asked_;
    return stop;
}

void host_watch::look() {
    left_ = UNITS;
    if (!stopped_) return;
    const clock::time_point now = clock::now();
    if (!stop) {
        if (now - asked_ >= BETWEEN_QUESTIONS) ask();
    } else if (now - stopping_since_ >= TO_END) {
        throw stopped_midway();
    }
}

} // namespace thp

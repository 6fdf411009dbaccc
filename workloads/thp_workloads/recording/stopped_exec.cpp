#include "stopped_exec.hpp"
#include <cerrno>
#include <csignal>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

namespace thp::recording {

namespace {

std::vector<char *> pointers(const std::vector<std::string> &strings) {
    std::vector<char *> result;
    result.reserve(strings.size() + 1);
    for (const std::string &s : strings) result.push_back(const_cast<char *>(s.c_str()));
    result.push_back(nullptr);
    return result;
}

} // namespace

int stopped_exec(const std::string &path, const std::vector<std::string> &arguments,
                 const std::vector<std::string> &environment) {
    std::vector<char *> argv = pointers(arguments), envp = pointers(environment);
    const pid_t pid = fork();
    if (pid < 0) return -errno;
    if (pid == 0) {
        // Only system calls from here on: another thread may have held a lock at the fork.
        personality(ADDR_NO_RANDOMIZE);
        if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0) execve(path.c_str(), argv.data(), envp.data());
        _exit(errno & 0x7f);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -errno;
    if (WIFSTOPPED(status)) return pid;
    return WIFEXITED(status) && WEXITSTATUS(status) ? -WEXITSTATUS(status) : -ECHILD;
}

} // namespace thp::recording

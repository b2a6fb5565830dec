/* Preloaded into the service by a test: kills it, as `kill -9` would, in the instant in which it writes
 * the chosen words to its log for the chosen time. The service itself knows nothing of it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ssize_t (*real_write)(int, const void *, size_t);
static const char *words;
static int left;

__attribute__((constructor)) static void begin(void) {
    real_write = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    words = getenv("KILL_AT");
    const char *times = getenv("KILL_AFTER");
    left = times ? atoi(times) : 1;
}

ssize_t write(int file, const void *bytes, size_t length) {
    if (file == 2 && words && memmem(bytes, length, words, strlen(words)) &&
        __sync_sub_and_fetch(&left, 1) == 0)
        kill(getpid(), SIGKILL);
    return real_write(file, bytes, length);
}
